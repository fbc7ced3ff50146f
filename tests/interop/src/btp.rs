//! As much BTP as a payer needs: authenticate, send a Prepare, read its answer. Blocking, one request at a time.
//!
//! A frame is `type (1) | request id (4) | VarOct { sub-protocols }`, and a list of sub-protocols is
//! `01 count (1) | count x { VarOct name | content type (1) | VarOct data }` (RFC 23).

use std::net::TcpStream;

use tungstenite::{Message, WebSocket, client};

use crate::AnyError;

const RESPONSE: u8 = 1;
const MESSAGE: u8 = 6;
const OCTETS: u8 = 0;
const TEXT: u8 = 1;

pub struct BtpClient {
    socket: WebSocket<TcpStream>,
    last_request: u32,
}

impl BtpClient {
    /// Opens a session under a token nobody else has, as ilp-plugin does.
    pub fn connect(server: &str) -> Result<Self, AnyError> {
        let (socket, _) = client(format!("ws://{server}/"), TcpStream::connect(server)?).map_err(|error| error.to_string())?;
        let mut session = Self { socket, last_request: 0 };
        let token = format!("{:032x}", rand::random::<u128>());
        session.request(&[("auth", OCTETS, b""), ("auth_username", TEXT, b""), ("auth_token", TEXT, token.as_bytes())])?;
        Ok(session)
    }

    /// The answer to one Prepare: the bytes of a Fulfill or a Reject.
    pub fn send_ilp(&mut self, prepare: &[u8]) -> Result<Vec<u8>, AnyError> {
        let answer = self.request(&[("ilp", OCTETS, prepare)])?;
        let mut rest = answer.as_slice();
        let counted = take(&mut rest, 2)?;
        if counted != [1, 1] || var_octets(&mut rest)? != b"ilp" {
            return Err("a BTP response without exactly one `ilp`".into());
        }
        take(&mut rest, 1)?;
        Ok(var_octets(&mut rest)?.to_vec())
    }

    /// Sends one Message and waits for the contents of its Response.
    fn request(&mut self, protocols: &[(&str, u8, &[u8])]) -> Result<Vec<u8>, AnyError> {
        self.last_request += 1;
        let mut contents = vec![1, u8::try_from(protocols.len())?];
        for (name, content_type, data) in protocols {
            put_var_octets(&mut contents, name.as_bytes());
            contents.push(*content_type);
            put_var_octets(&mut contents, data);
        }
        let mut frame = vec![MESSAGE];
        frame.extend(self.last_request.to_be_bytes());
        put_var_octets(&mut frame, &contents);
        self.socket.send(Message::binary(frame))?;
        loop {
            let Message::Binary(frame) = self.socket.read()? else { continue };
            let mut rest = &frame[..];
            let kind = take(&mut rest, 1)?[0];
            let id = u32::from_be_bytes(take(&mut rest, 4)?.try_into()?);
            if id != self.last_request {
                continue;
            }
            return match kind {
                RESPONSE => Ok(var_octets(&mut rest)?.to_vec()),
                other => Err(format!("BTP type {other} in answer to a message: {}", String::from_utf8_lossy(rest)).into()),
            };
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], AnyError> {
    let (head, tail) = rest.split_at_checked(count).ok_or("a BTP frame that ends too early")?;
    *rest = tail;
    Ok(head)
}

fn var_octets<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], AnyError> {
    let first = take(rest, 1)?[0];
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        take(rest, usize::from(first & 0x7f))?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    take(rest, length)
}

fn put_var_octets(to: &mut Vec<u8>, octets: &[u8]) {
    if octets.len() < 0x80 {
        to.push(octets.len() as u8);
    } else {
        let length = octets.len().to_be_bytes();
        let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
        to.push(0x80 | significant.len() as u8);
        to.extend(significant);
    }
    to.extend(octets);
}
