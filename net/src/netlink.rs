//! Netlink messages (netlink(7)): an encoder of attributes, and a socket that waits for the kernel's acknowledgement.
//!
//! Synchronous on purpose: the single-threaded shim uses it, a child in the pod's network namespace, and the runtime once when it opens.

use std::{io, os::fd::AsRawFd, os::fd::OwnedFd};

use nix::{
    libc,
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType},
};

const HEADER_BYTES: usize = 16;
const ANSWER_BYTES_MAX: usize = 32 * 1024;
/// Maximum bytes of answers to one query; our largest table takes a tenth of it.
const ANSWERS_BYTES_MAX: usize = 8 << 20;
const NESTED: u16 = 0x8000;
/// Mask of an attribute's kind without the flags for nesting and byte order.
const KIND_BITS: u16 = 0x3fff;

/// One netlink message under construction.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message of `kind` with the fixed header of its family (`ifinfomsg`, `nfgenmsg`, ...) before the attributes.
    pub fn new(kind: u16, flags: i32, family_header: &[u8]) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        Self(bytes)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, |bytes| bytes.extend_from_slice(value));
        self
    }

    /// Adds an attribute holding text with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.attr(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds a 32-bit number in big-endian order, as netfilter requires.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds a 64-bit number in big-endian order.
    #[must_use]
    pub fn be64(self, kind: u16, value: u64) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds a nested attribute: `head`, then the attributes that `fill` adds.
    #[must_use]
    pub fn nest(mut self, kind: u16, head: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(head);
        let mut filled = fill(self);
        filled.close(start, kind | NESTED);
        filled
    }

    fn put(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(&mut self.0);
        self.close(start, kind);
    }

    /// Writes the length and kind of the attribute that starts at `start`, and pads it.
    fn close(&mut self, start: usize, kind: u16) {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX); // ours are a few hundred bytes
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }

    fn is_dump(&self) -> bool {
        i32::from(u16::from_ne_bytes([self.0[6], self.0[7]])) & libc::NLM_F_DUMP == libc::NLM_F_DUMP
    }

    fn wants_answer(&self) -> bool {
        i32::from(u16::from_ne_bytes([self.0[6], self.0[7]])) & libc::NLM_F_ACK != 0
    }
}

/// The kernel subsystem of a netlink socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Routes, links, addresses, neighbours and traffic control (rtnetlink(7)).
    Route,
    /// nf_tables.
    NetFilter,
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens and binds a socket.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::NetFilter => SockProtocol::NetlinkNetFilter,
        };
        let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends all messages in one datagram and waits until each that requests an acknowledgement has been acknowledged.
    ///
    /// # Errors
    ///
    /// The first error the kernel answers.
    pub fn transact(&self, messages: Vec<Message>) -> io::Result<()> {
        let mut awaited = messages.iter().filter(|message| message.wants_answer()).count();
        let datagram: Vec<u8> = (1..).zip(messages).flat_map(|(sequence, message)| message.finish(sequence)).collect();
        socket::send(self.0.as_raw_fd(), &datagram, MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        while awaited > 0 {
            let length = socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            awaited = awaited.saturating_sub(acknowledged(&buffer[..length])?);
        }
        Ok(())
    }

    /// Queries all objects of a kind, or (without `NLM_F_DUMP`) one object. Fails with `Interrupted` if they changed during the dump.
    /// Answers are returned without the netlink header.
    ///
    /// # Errors
    ///
    /// The kernel answers with an error, or the answer is too long.
    pub fn ask(&self, question: Message) -> io::Result<Vec<Vec<u8>>> {
        let one = !question.is_dump();
        socket::send(self.0.as_raw_fd(), &question.finish(1), MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let (mut replies, mut bytes) = (Vec::new(), 0);
        loop {
            let length = socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            bytes += length;
            let datagram = buffer.get(..length).filter(|_| bytes <= ANSWERS_BYTES_MAX);
            for (header, body) in messages(datagram.ok_or_else(|| io::Error::other("the kernel's answer is too long"))?) {
                match i32::from(header.kind) {
                    // If a change happens during the last answers, the kernel flags it only in NLMSG_DONE.
                    _ if i32::from(header.flags) & libc::NLM_F_DUMP_INTR != 0 => return Err(io::ErrorKind::Interrupted.into()),
                    libc::NLMSG_DONE => return Ok(replies),
                    libc::NLMSG_ERROR => return error_of(body).map(|()| replies),
                    _ => replies.push(body.to_vec()),
                }
            }
            if one && !replies.is_empty() {
                return Ok(replies);
            }
        }
    }
}

struct Header {
    kind: u16,
    flags: u16,
}

fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = datagram.get(HEADER_BYTES..length)?;
        let (kind, flags) = (u16::from_ne_bytes([header[4], header[5]]), u16::from_ne_bytes([header[6], header[7]]));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((Header { kind, flags }, body))
    })
}

/// The attributes in `bytes`: kind (without its flags), value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & KIND_BITS, value))
    })
}

/// Success, or the error in an acknowledgement.
fn error_of(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// How many acknowledgements are in the datagram, or the error the kernel answered.
fn acknowledged(datagram: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    for (header, body) in messages(datagram) {
        if i32::from(header.kind) == libc::NLMSG_ERROR {
            error_of(body)?;
            count += 1;
        }
    }
    Ok(count)
}
