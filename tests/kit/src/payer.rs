//! Requests that are paid for, with codiusd's own STREAM sender.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use codiusd_ilp::{
    btp::client::{BtpLink, BtpUrl},
    ildcp::Account,
    stream::{
        crypto::SharedSecret,
        sender::{Delivery, SendError, send},
    },
};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::{host::Host, upload::Upload, web::Answer};

/// A payer with an account at a BTP server that gives everyone credit.
#[derive(Debug)]
pub struct Payer {
    link: BtpLink,
    account: Account,
}

/// How a paid request ended.
#[derive(Clone, Debug)]
pub struct Bought {
    /// The last answer.
    pub answer: Answer,
    /// What was paid for it, in the asset's smallest unit.
    pub paid: u64,
}

/// A Pay-Token nobody else has.
pub fn pay_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}

impl Payer {
    /// Opens an account nobody else has.
    pub async fn connect(btp: SocketAddr) -> Self {
        let url = format!("btp+ws://:{:032x}@{btp}", rand::random::<u128>());
        let url: BtpUrl = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
        let link = BtpLink::connect(&url).await.unwrap_or_else(|error| panic!("{error:?}"));
        let account = link.account().await.unwrap_or_else(|error| panic!("{error:?}"));
        Self { link, account }
    }

    /// Pays what a `Pay` header asks for, at most `amount_max`.
    pub async fn pay(&self, pay: &str, amount_max: u64) -> Result<Delivery, SendError> {
        let ["interledger-stream", address, secret] = pay.split(' ').collect::<Vec<_>>()[..] else { panic!("not a Pay header: {pay}") };
        let address = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
        let secret = SharedSecret::from_base64(secret).unwrap_or_else(|error| panic!("{pay}: {error}"));
        send(&self.link, &self.account, &address, &secret, amount_max, &mut |_| {}).await
    }

    /// Makes a request, pays up to `amount_max` if it is asked to, and makes it again.
    pub async fn buy(&self, host: &Host, method: Method, target: &str, body: Option<&Value>, token: &str, amount_max: u64) -> Bought {
        let first = host.api(method.clone(), target, body, Some(token)).await;
        if first.status != StatusCode::PAYMENT_REQUIRED {
            return Bought { answer: first, paid: 0 };
        }
        let pay = first.header("pay").unwrap_or_else(|| panic!("402 without Pay: {}", first.text()));
        let paid = match self.pay(pay, amount_max).await {
            Ok(delivery) => delivery.sent,
            Err(error) => panic!("pay for {target}: {error:?}"),
        };
        Bought { answer: host.api(method, target, body, Some(token)).await, paid }
    }

    /// Uploads a pod for `seconds` at whatever it costs.
    pub async fn upload(&self, host: &Host, upload: &Upload, seconds: u32) -> Bought {
        let target = format!("/pods?duration={seconds}");
        self.buy(host, Method::POST, &target, Some(upload.json()), &pay_token(), u64::MAX).await
    }

    /// Uploads a pod that is sure to start, and returns its hash.
    pub async fn run_pod(&self, host: &Host, upload: &Upload, seconds: u32) -> String {
        let Bought { answer, .. } = self.upload(host, upload, seconds).await;
        assert_eq!(answer.status, StatusCode::OK, "upload: {}", answer.text());
        answer.json()["manifestHash"].as_str().unwrap_or_else(|| panic!("no manifestHash in {}", answer.text())).to_owned()
    }
}
