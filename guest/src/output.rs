//! From the containers' pipes to the output port.
//!
//! There is never more than one piece in memory: while the port doesn't accept it, no pipe is read, the pipes fill up, and the containers'
//! next writes block.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use codiusd_guest_protocol::output::{HEADER_BYTES, Stream, header};

/// Longest content of a piece: with its header, what the kernel holds in one allocation of a power of two.
const CONTENT_BYTES: usize = (16 << 10) - HEADER_BYTES;
/// Buffers of the port that the host may not have taken yet: the length of QEMU's queue.
const QUEUE_LENGTH: u32 = 128;

/// The output port, and what is written to it.
#[derive(Debug)]
pub(crate) struct Outputs {
    port: File,
    pipes: Vec<Pipe>,
    /// Index of the pipe that is read next.
    next: usize,
    /// A piece, and how much of it the port has accepted.
    piece: Vec<u8>,
    sent: usize,
    /// Empty pieces still to be sent until the host has taken all others.
    unconfirmed: u32,
}

#[derive(Debug)]
struct Pipe {
    container: u16,
    stream: Stream,
    /// None after its end.
    file: Option<File>,
}

impl Outputs {
    /// Over a port in non-blocking mode.
    pub(crate) fn new(port: OwnedFd) -> Self {
        Self { port: port.into(), pipes: Vec::new(), next: 0, piece: Vec::new(), sent: 0, unconfirmed: 0 }
    }

    /// Adds a container's outputs: read ends in non-blocking mode.
    pub(crate) fn add(&mut self, container: u16, [stdout, stderr]: [OwnedFd; 2]) {
        for (stream, pipe) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            self.pipes.push(Pipe { container, stream, file: Some(pipe.into()) });
        }
    }

    /// The port, if something waits for it.
    pub(crate) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        let waits = self.is_full() || self.is_confirming();
        waits.then(|| self.port.as_fd())
    }

    /// What is to be read, if the port isn't waited for.
    pub(crate) fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open = self.pipes.iter().filter(|_| !self.is_full()).filter_map(|pipe| pipe.file.as_ref());
        open.map(AsFd::as_fd)
    }

    /// Forwards what is there, at most a piece of each pipe.
    pub(crate) fn forward(&mut self) -> io::Result<()> {
        self.write()?;
        for _ in 0..self.pipes.len() {
            if self.is_full() {
                break;
            }
            self.read(self.next)?;
            self.next = (self.next + 1) % self.pipes.len();
            self.write()?;
        }
        if !self.is_full() && self.is_confirming() {
            self.confirm()?;
        }
        Ok(())
    }

    /// Whether the host has taken everything; only after the end of all pipes.
    ///
    /// The kernel accepts pieces before the host takes them, doesn't tell when it has, and loses them when the machine ends. But it accepts
    /// only a queue's length: when it has accepted as many more, those before were taken.
    pub(crate) fn are_done(&self) -> bool {
        !self.is_full() && !self.is_open() && self.unconfirmed == 0
    }

    fn is_full(&self) -> bool {
        self.sent < self.piece.len()
    }

    fn is_open(&self) -> bool {
        self.pipes.iter().any(|pipe| pipe.file.is_some())
    }

    fn is_confirming(&self) -> bool {
        !self.is_open() && self.unconfirmed > 0
    }

    fn confirm(&mut self) -> io::Result<()> {
        while self.unconfirmed > 0 && !self.is_full() {
            self.unconfirmed -= 1;
            let left = self.unconfirmed;
            self.begin(0, Stream::Stdout, 0);
            self.write()?;
            self.unconfirmed = left;
        }
        Ok(())
    }

    /// Makes a piece of what a pipe holds.
    fn read(&mut self, index: usize) -> io::Result<()> {
        let Some(Pipe { container, stream, file: Some(file) }) = self.pipes.get_mut(index) else { return Ok(()) };
        let (container, stream) = (*container, *stream);
        let mut content = [0; CONTENT_BYTES];
        match file.read(&mut content) {
            Ok(0) => self.pipes[index].file = None,
            Ok(length) => {
                self.begin(container, stream, length);
                self.piece.extend_from_slice(&content[..length]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn begin(&mut self, container: u16, stream: Stream, length: usize) {
        self.piece.clear();
        self.sent = 0;
        self.unconfirmed = QUEUE_LENGTH;
        self.piece.extend_from_slice(&header(container, stream, u16::try_from(length).unwrap_or(u16::MAX)));
    }

    fn write(&mut self) -> io::Result<()> {
        while self.is_full() {
            match self.port.write(&self.piece[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use codiusd_guest_protocol::output::Decoder;
    use nix::{fcntl::OFlag, unistd::pipe2};

    use super::*;

    fn connected() -> (UnixStream, Outputs) {
        let (host, guest) = UnixStream::pair().unwrap();
        for end in [&host, &guest] {
            end.set_nonblocking(true).unwrap();
        }
        (host, Outputs::new(guest.into()))
    }

    fn container(outputs: &mut Outputs, index: u16) -> [File; 2] {
        let pipe = || pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe(), pipe());
        outputs.add(index, [stdout, stderr]);
        [stdout_end.into(), stderr_end.into()]
    }

    #[test]
    fn pieces_of_all_containers_arrive_and_the_end_is_known() {
        let (mut host, mut outputs) = connected();
        assert!(outputs.are_done(), "there is nothing");
        let (first, second) = (container(&mut outputs, 0), container(&mut outputs, 1));
        (&first[0]).write_all(b"out").unwrap();
        (&second[1]).write_all(b"err").unwrap();
        outputs.forward().unwrap();
        assert!(!outputs.are_done());
        drop((first, second));
        let (mut decoder, mut read) = (Decoder::new(2), Vec::new());
        let mut buffer = [0; 4096];
        while !outputs.are_done() {
            outputs.forward().unwrap();
            let length = host.read(&mut buffer).unwrap_or_default();
            decoder.feed(&buffer[..length], |container, stream, content| read.push((container, stream, content.to_vec()))).unwrap();
        }
        assert_eq!(read, [(0, Stream::Stdout, b"out".to_vec()), (1, Stream::Stderr, b"err".to_vec())]);
    }

    #[test]
    fn while_the_port_is_full_no_pipe_is_read() {
        let (mut host, mut outputs) = connected();
        let [flood, quiet] = container(&mut outputs, 0);
        let mut written = 0;
        while !outputs.is_full() {
            match (&flood).write(&[b'x'; 4096]) {
                Ok(length) => written += length,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            outputs.forward().unwrap();
        }
        assert!(
            outputs.waits_for().is_some() && outputs.readable().next().is_none() && outputs.piece.len() <= CONTENT_BYTES + HEADER_BYTES
        );
        drop((flood, quiet));
        let (mut decoder, mut read) = (Decoder::new(1), 0);
        let mut buffer = [0; 65536];
        while !outputs.are_done() {
            outputs.forward().unwrap();
            let length = host.read(&mut buffer).unwrap_or_default();
            decoder.feed(&buffer[..length], |_, _, content| read += content.len()).unwrap();
        }
        assert_eq!(read, written, "nothing is lost");
    }
}
