//! The few netlink messages the runtime sends: an encoder of attributes and a socket that waits for the kernel's verdict.
//!
//! Synchronous on purpose: it is used in the single-threaded shim, in a child that has entered the pod's network
//! namespace, and once when the runtime is opened.

use std::{io, os::fd::AsRawFd, os::fd::OwnedFd};

use nix::{
    libc,
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType},
};

const HEADER_BYTES: usize = 16;
const ANSWER_BYTES_MAX: usize = 32 * 1024;
const NESTED: u16 = 0x8000;

/// One netlink message under construction.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A message of `kind` with the fixed header of its family (`ifinfomsg`, `nfgenmsg`, ...) before the attributes.
    pub(crate) fn new(kind: u16, flags: i32, family_header: &[u8]) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        Self(bytes)
    }

    /// Adds an attribute.
    #[must_use]
    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, |bytes| bytes.extend_from_slice(value));
        self
    }

    /// Adds an attribute holding text with its terminating zero.
    #[must_use]
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.attr(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds a big-endian number, as netfilter wants them.
    #[must_use]
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds an attribute made of `head` and of attributes.
    #[must_use]
    pub(crate) fn nest(mut self, kind: u16, head: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
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

    /// Writes length and kind of the attribute begun at `start`, and pads it.
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

    fn wants_answer(&self) -> bool {
        i32::from(u16::from_ne_bytes([self.0[6], self.0[7]])) & libc::NLM_F_ACK != 0
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends all messages in one datagram and waits until each that asked for it has been acknowledged.
    pub(crate) fn transact(&self, messages: Vec<Message>) -> io::Result<()> {
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
}

/// How many acknowledgements are in the datagram, or the error the kernel answered.
fn acknowledged(mut datagram: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some((header, _)) = datagram.split_first_chunk::<HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if i32::from(kind) == libc::NLMSG_ERROR {
            let code = datagram.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            count += 1;
        }
        datagram = datagram.get(length.next_multiple_of(4).max(HEADER_BYTES)..).unwrap_or_default();
    }
    Ok(count)
}
