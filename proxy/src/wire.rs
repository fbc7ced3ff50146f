//! HTTP/1 as bytes: what the head of a message says, where its body ends, and how both are written anew. Pure.
//!
//! | room | what it knows |
//! |---|---|
//! | `syntax` | tokens, numbers and lists (RFC 9110 section 5.6) |
//! | `field` | which fields concern one hop, frame a message, or are a proxy's to say |
//! | `request` | the head of a request: its target, its framing, and the head its upstream gets |
//! | `answer` | the head of an answer: its framing, and the head its client gets |
//! | `chunk` | the chunked coding (RFC 9112 section 7.1) |
//!
//! Nothing is copied as it came: each name, value, length and chunk is read, and written in the one way that everybody reads alike.

pub(crate) mod answer;
pub(crate) mod chunk;
pub(crate) mod field;
pub(crate) mod request;
pub(crate) mod syntax;

/// Bounds on heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of a head.
    pub(crate) bytes: usize,
    /// Fields of a head.
    pub(crate) fields: usize,
}

/// Fields a head may have, whatever the settings say: room for them is on the stack while a head is read.
pub(crate) const FIELDS_MAX: usize = 1024;

/// The head of a message can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHead {
    /// It is no HTTP/1, or says something that can't be.
    #[error("the head of the message is malformed")]
    Malformed,
    /// It is longer than allowed.
    #[error("the head of the message is too long")]
    TooLong,
    /// It has more fields than allowed.
    #[error("the head of the message has too many fields")]
    TooManyFields,
    /// It says in two ways where the message ends (RFC 9112 section 6.3), or in one that the next hop isn't told of.
    #[error("the message is framed ambiguously")]
    Ambiguous,
}

impl BadHead {
    fn of(error: httparse::Error) -> BadHead {
        match error {
            httparse::Error::TooManyHeaders => BadHead::TooManyFields,
            _ => BadHead::Malformed,
        }
    }
}

/// Where the body of a message ends, as its fields say (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Nothing says that there is one.
    Unsaid,
    /// After so many bytes.
    Length(u64),
    /// After its last chunk.
    Chunked,
}

impl Framing {
    /// Decides from all Content-Length and Transfer-Encoding fields of a message. Lengths that are repeated alike are one
    /// (RFC 9110 section 8.6); any coding but one `chunked` is refused, since the next hop would take what is left for the content.
    fn decide<'b>(
        is_old: bool,
        mut lengths: impl Iterator<Item = &'b [u8]>,
        mut codings: impl Iterator<Item = &'b [u8]>,
    ) -> Result<Decided, BadHead> {
        let length = match lengths.next() {
            None => None,
            Some(first) => {
                let length = syntax::decimal(first).ok_or(BadHead::Malformed);
                if lengths.any(|other| other != first) {
                    return Err(BadHead::Malformed);
                }
                Some(length)
            }
        };
        match codings.next() {
            None => Ok(Decided { framing: length.transpose()?.map_or(Framing::Unsaid, Framing::Length), has_both: false }),
            // Nobody said what it means there.
            Some(_) if is_old => Err(BadHead::Malformed),
            Some(coding) if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() => {
                Ok(Decided { framing: Framing::Chunked, has_both: length.is_some() })
            }
            Some(_) => Err(BadHead::Ambiguous),
        }
    }
}

/// A framing, and whether a Content-Length had to be overruled for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decided {
    framing: Framing,
    has_both: bool,
}
