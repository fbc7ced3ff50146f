//! HTTP/1.1 as far as this page needs it: requests one after the other, bodies by length or in chunks.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// Longest head of a request, in bytes.
const HEAD_MAX: u64 = 64 * 1024;

/// A connection, and what was read of it ahead.
pub struct Connection(BufReader<TcpStream>);

/// The head of a request.
pub struct Request {
    pub method: String,
    pub target: String,
    fields: Vec<(String, String)>,
}

impl Request {
    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// The next request; none: the client has closed the connection.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let mut lines = Vec::new();
        let mut head = (&mut self.0).take(HEAD_MAX);
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return if lines.is_empty() && line.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            match line.trim_end_matches(['\r', '\n']) {
                "" if lines.is_empty() => {}
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut words = lines[0].split(' ').map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(io::ErrorKind::InvalidData.into()) };
        let fields = lines[1..].iter().filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        Ok(Some(Request { method, target, fields }))
    }

    /// Reads the body of a request, and answers how long it was.
    pub fn discard_body(&mut self, request: &Request) -> io::Result<u64> {
        if request.field("Expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
            self.stream().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request.field("Transfer-Encoding").is_some() {
            return self.discard_chunks();
        }
        let length = request.field("Content-Length").map_or(Ok(0), str::parse).map_err(|_| io::ErrorKind::InvalidData)?;
        self.discard(length)?;
        Ok(length)
    }

    fn discard_chunks(&mut self) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let size = self.line()?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(total);
            }
            self.discard(size)?;
            self.line()?;
            total += size;
        }
    }

    fn discard(&mut self, length: u64) -> io::Result<()> {
        let copied = io::copy(&mut (&mut self.0).take(length), &mut io::sink())?;
        if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.0).take(HEAD_MAX).read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Sends a response with `length` bytes of `body`; of a HEAD request only the head.
    pub fn respond(&mut self, request: &Request, status: &str, kind: &str, length: u64, body: impl Read) -> io::Result<()> {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
        self.stream().write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            io::copy(&mut body.take(length), self.stream())?;
        }
        self.stream().flush()
    }

    /// Sends a response that switches protocols.
    pub fn upgrade(&mut self, fields: &str) -> io::Result<()> {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{fields}\r\n");
        self.stream().write_all(head.as_bytes())
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        self.0.get_mut()
    }

    pub fn reader(&mut self) -> &mut impl Read {
        &mut self.0
    }
}
