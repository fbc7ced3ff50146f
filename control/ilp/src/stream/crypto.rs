//! The shared secret of a STREAM connection and what is derived from it (RFC 29, section 4).

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{aead, digest, hmac};

const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Minimum length of a sealed packet, in bytes.
pub const SEALED_MIN: usize = IV_BYTES + TAG_BYTES;

/// 32 bytes known to both ends.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret([u8; 32]);

/// The text isn't base64 of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a shared secret is 32 bytes of base64")]
pub struct BadSecret;

/// The bytes weren't sealed with this key, or were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not sealed with this key")]
pub struct NotSealed;

impl SharedSecret {
    /// The secret of the connection at an address segment, derived from the server's own secret and therefore never stored.
    pub fn derive(server_secret: &[u8; 32], segment: &str) -> Self {
        let generator = hmac_sha256(server_secret, b"ilp_stream_shared_secret");
        Self(hmac_sha256(&generator, segment.as_bytes()))
    }

    /// Parses the third word of a `Pay` header.
    pub fn from_base64(text: &str) -> Result<Self, BadSecret> {
        STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(BadSecret)
    }

    /// Encodes the secret for the `Pay` header.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The keys derived from it.
    pub fn keys(&self) -> StreamKeys {
        let sealing = hmac_sha256(&self.0, b"ilp_stream_encryption");
        let fulfilling = hmac_sha256(&self.0, b"ilp_stream_fulfillment");
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &sealing).unwrap_or_else(|_| unreachable!("32 bytes are an AES-256 key"));
        StreamKeys { sealing: aead::LessSafeKey::new(key), fulfilling: hmac::Key::new(hmac::HMAC_SHA256, &fulfilling) }
    }
}

impl From<[u8; 32]> for SharedSecret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(hidden)")
    }
}

/// Keys of one connection.
pub struct StreamKeys {
    sealing: aead::LessSafeKey,
    fulfilling: hmac::Key,
}

impl StreamKeys {
    /// `iv | tag | ciphertext`, with a fresh random IV: both ends use one key, so it must never come from a counter.
    pub fn seal(&self, plaintext: Vec<u8>) -> Vec<u8> {
        self.seal_with(rand::random(), plaintext)
    }

    fn seal_with(&self, iv: [u8; IV_BYTES], mut plaintext: Vec<u8>) -> Vec<u8> {
        let nonce = aead::Nonce::assume_unique_for_key(iv);
        let tag = self
            .sealing
            .seal_in_place_separate_tag(nonce, aead::Aad::empty(), &mut plaintext)
            .unwrap_or_else(|_| unreachable!("a packet is far below AES-GCM's limit"));
        [iv.as_slice(), tag.as_ref(), &plaintext].concat()
    }

    /// The plaintext of `iv | tag | ciphertext`.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, NotSealed> {
        let (iv, rest) = sealed.split_first_chunk::<IV_BYTES>().ok_or(NotSealed)?;
        let (tag, ciphertext) = rest.split_at_checked(TAG_BYTES).ok_or(NotSealed)?;
        let mut buffer = [ciphertext, tag].concat();
        let nonce = aead::Nonce::assume_unique_for_key(*iv);
        self.sealing.open_in_place(nonce, aead::Aad::empty(), &mut buffer).map_err(|_| NotSealed)?;
        buffer.truncate(ciphertext.len());
        Ok(buffer)
    }

    /// The fulfillment of a Prepare with this data field.
    pub fn fulfillment(&self, data: &[u8]) -> [u8; 32] {
        tag_bytes(&hmac::sign(&self.fulfilling, data))
    }
}

impl fmt::Debug for StreamKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKeys(hidden)")
    }
}

/// The condition that matches a fulfillment.
pub fn condition_of(fulfillment: &[u8; 32]) -> [u8; 32] {
    let mut condition = [0; 32];
    condition.copy_from_slice(digest::digest(&digest::SHA256, fulfillment).as_ref());
    condition
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    tag_bytes(&hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message))
}

fn tag_bytes(tag: &hmac::Tag) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}
