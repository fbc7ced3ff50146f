//! The Pay-Token: a secret chosen by the payer, and the request its first use binds it to.

use std::fmt;

use base64::{Engine, alphabet, engine};
use sha2::{Digest, Sha256};

/// Length of a Pay-Token, in bytes.
const TOKEN_BYTES: usize = 16;

/// A payer's bearer secret. Only its hash is ever kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PayToken([u8; TOKEN_BYTES]);

/// The header isn't a Pay-Token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`Pay-Token` must be 16 bytes base64.")]
pub struct BadToken;

const LENIENT: engine::GeneralPurposeConfig = engine::GeneralPurposeConfig::new()
    .with_decode_padding_mode(engine::DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: engine::GeneralPurpose = engine::GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: engine::GeneralPurpose = engine::GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

impl PayToken {
    /// Reads a header value: standard or URL alphabet, padding optional, exactly 16 bytes.
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        let bytes = URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text)).map_err(|_| BadToken)?;
        bytes.try_into().map(Self).map_err(|_| BadToken)
    }

    /// The hash that is stored instead of the token.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for PayToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayToken(hidden)")
    }
}

/// SHA-256 of a Pay-Token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub(crate) [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}..)", hex::encode(&self.0[..4]))
    }
}

/// The request a token is bound to by its first use: one method, target and body. Any other request with that token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding(pub(crate) [u8; 32]);

impl Binding {
    /// The binding of one request; `target` is its path and query as received.
    pub fn of(method: &str, target: &str, body: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        for part in [method.as_bytes(), target.as_bytes(), body] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_send() {
        let token = PayToken::parse("FGCHO-61DOeVEKoXmnAXiA").unwrap();
        assert_eq!(hex::encode(token.0), "1460873beeb50ce79510aa179a701788");
        for same in ["FGCHO+61DOeVEKoXmnAXiA==", "FGCHO+61DOeVEKoXmnAXiA", "FGCHO-61DOeVEKoXmnAXiA=="] {
            assert_eq!(PayToken::parse(same).unwrap(), token, "{same}");
        }
        for bad in ["", "abc", "FGCHO-61DOeVEKoXmnAX", "FGCHO-61DOeVEKoXmnAXiAAA", "FGCHO-61DOeVEKoXmn AXiA", "not base64 at all!!"] {
            assert_eq!(PayToken::parse(bad), Err(BadToken), "{bad}");
        }
        assert!(!format!("{token:?}").contains("1460"));
    }

    #[test]
    fn binding_keeps_the_parts_apart() {
        assert_eq!(Binding::of("POST", "/pods", b"x"), Binding::of("POST", "/pods", b"x"));
        assert_ne!(Binding::of("POST", "/pods", b"x"), Binding::of("POST", "/podsx", b""));
    }
}
