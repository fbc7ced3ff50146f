//! The Interledger Dynamic Configuration Protocol (RFC 31): asking the parent connector for address and asset.

use jiff::{SignedDuration, Timestamp};

use crate::{
    address::Address,
    oer::{DecodeError, Reader, Writer},
    packet::{Fulfill, Prepare},
};

const DESTINATION: &str = "peer.config";
/// SHA-256 of 32 zero bytes.
const CONDITION: [u8; 32] = [
    0x66, 0x68, 0x7a, 0xad, 0xf8, 0x62, 0xbd, 0x77, 0x6c, 0x8f, 0xc1, 0x8b, 0x8e, 0x9f, 0x8e, 0x20, 0x08, 0x97, 0x14, 0x85, 0x6e, 0xe2,
    0x33, 0xb3, 0x90, 0x2a, 0x59, 0x1d, 0x0d, 0x5f, 0x29, 0x25,
];
/// Timeout of a request.
const EXPIRY: SignedDuration = SignedDuration::from_secs(60);

/// The address and asset of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its address.
    pub address: Address,
    /// Currency code.
    pub asset_code: String,
    /// Decimal places of the smallest unit.
    pub asset_scale: u8,
}

/// The request.
pub fn request(now: Timestamp) -> Prepare {
    Prepare {
        amount: 0,
        expires_at: now.checked_add(EXPIRY).unwrap_or(now),
        condition: CONDITION,
        destination: DESTINATION.parse().unwrap_or_else(|_| unreachable!("a constant address")),
        data: Vec::new(),
    }
}

/// Whether a Prepare is the request.
pub fn is_request(prepare: &Prepare) -> bool {
    prepare.destination.as_str() == DESTINATION
}

/// The response.
pub fn respond(account: &Account) -> Fulfill {
    let mut data = Vec::new();
    data.put_var_octets(account.address.as_str().as_bytes());
    data.push(account.asset_scale);
    data.put_var_octets(account.asset_code.as_bytes());
    Fulfill { fulfillment: [0; 32], data }
}

/// Parses the response.
pub fn parse_response(fulfill: &Fulfill) -> Result<Account, DecodeError> {
    if fulfill.fulfillment != [0; 32] {
        return Err(DecodeError::Value("IL-DCP fulfillment"));
    }
    let mut reader = Reader::new(&fulfill.data);
    let text = |bytes: &[u8], what| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::Value(what));
    let address = text(reader.var_octets("IL-DCP address")?, "IL-DCP address")?;
    let asset_scale = reader.u8("IL-DCP asset scale")?;
    let asset_code = text(reader.var_octets("IL-DCP asset code")?, "IL-DCP asset code")?;
    reader.end("IL-DCP response")?;
    Ok(Account { address: address.parse().map_err(|_| DecodeError::Value("IL-DCP address"))?, asset_code, asset_scale })
}
