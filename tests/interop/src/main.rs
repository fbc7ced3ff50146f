//! Pays over STREAM with the published `interledger-stream` crate, which shares no code with codiusd.
//!
//! ```text
//! stream-sender <host:port of a BTP server> <ILP address> <shared secret, base64> <amount>
//! ```
//!
//! Prints `{"delivered": <amount the receiver acknowledged>, "asset": "<its code>", "scale": <its scale>}`.
//! The crate knows no StreamMaxMoney: when told "no more" it asks again for ever, so whoever runs this sets a time limit.
#![forbid(unsafe_code)]

mod btp;

use std::{cell::RefCell, env, process::ExitCode, rc::Rc, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use futures::{Future, future};
use interledger_packet::{Address, Fulfill, Packet, Reject, RejectBuilder};
use interledger_service::{Account, IncomingRequest, IncomingService, Username};
use interledger_stream::send_money;

use crate::btp::BtpClient;

type AnyError = Box<dyn std::error::Error>;

/// The account a payment comes from. interledger-stream asks IL-DCP for what counts (address, asset) and needs this as a form.
#[derive(Clone, Debug)]
struct Payer {
    username: Username,
    address: Address,
}

impl Account for Payer {
    type AccountId = u64;

    fn id(&self) -> u64 {
        0
    }

    fn username(&self) -> &Username {
        &self.username
    }

    fn ilp_address(&self) -> &Address {
        &self.address
    }

    fn asset_scale(&self) -> u8 {
        9
    }

    fn asset_code(&self) -> &str {
        "XRP"
    }
}

/// Sends each Prepare over BTP and waits for its answer, one at a time.
#[derive(Clone)]
struct OverBtp(Rc<RefCell<BtpClient>>);

impl IncomingService<Payer> for OverBtp {
    type Future = Box<dyn Future<Item = Fulfill, Error = Reject> + Send>;

    fn handle_request(&mut self, request: IncomingRequest<Payer>) -> Self::Future {
        let prepare = BytesMut::from(request.prepare);
        let answer = self.0.borrow_mut().send_ilp(&prepare).and_then(|bytes| Ok(Packet::try_from(BytesMut::from(bytes))?));
        Box::new(match answer {
            Ok(Packet::Fulfill(fulfill)) => future::ok(fulfill),
            Ok(Packet::Reject(reject)) => future::err(reject),
            Ok(Packet::Prepare(_)) => future::err(failure("a Prepare came in answer to a Prepare")),
            Err(error) => future::err(failure(&error.to_string())),
        })
    }
}

fn failure(message: &str) -> Reject {
    RejectBuilder { code: interledger_packet::ErrorCode::F00_BAD_REQUEST, message: message.as_bytes(), triggered_by: None, data: &[] }
        .build()
}

fn pay(arguments: &[String]) -> Result<serde_json::Value, AnyError> {
    let [server, address, secret, amount] = arguments else {
        return Err("usage: stream-sender <host:port> <ILP address> <shared secret> <amount>".into());
    };
    let destination = Address::from_str(address)?;
    let secret = BASE64_STANDARD.decode(secret)?;
    let payer =
        Payer { username: Username::from_str("payer").map_err(|error| error.to_string())?, address: Address::from_str("private.payer")? };
    let service = OverBtp(Rc::new(RefCell::new(BtpClient::connect(server)?)));
    let (receipt, _) = send_money(service, &payer, destination, &secret, amount.parse()?).wait().map_err(|error| error.to_string())?;
    Ok(serde_json::json!({
        "delivered": receipt.delivered_amount,
        "asset": receipt.delivered_asset_code,
        "scale": receipt.delivered_asset_scale,
    }))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match pay(&arguments) {
        Ok(receipt) => {
            println!("{receipt}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("stream-sender: {error}");
            ExitCode::FAILURE
        }
    }
}
