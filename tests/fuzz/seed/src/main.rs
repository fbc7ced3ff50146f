//! `seed VECTORS VERDICTS CORPUS`: writes each recorded packet, upload and header, good and bad, to the corpora of the targets that read
//! such bytes.

use std::{env, error::Error, fs, path::Path};

use serde_json::Value;

/// Corpora a vector of a kind belongs into; none for what isn't bytes on the wire.
fn targets_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "ilp-prepare" | "ilp-fulfill" | "ilp-reject" | "ilp-invalid" => &["ilp_packet"],
        "ildcp-response" | "ildcp-invalid" => &["ildcp", "ilp_packet"],
        "btp" | "btp-invalid" => &["btp"],
        "stream-packet" | "stream-invalid" | "stream-valid-odd" => &["stream_packet", "stream_sealed"],
        "stream-encrypted" | "stream-encrypted-invalid" => &["stream_sealed"],
        _ => &[],
    }
}

/// Headers of both versions, as haproxy sends them.
const PROXY_HEADERS: [&[u8]; 5] = [
    b"PROXY TCP4 203.0.113.7 127.0.0.1 5 80\r\nGET",
    b"PROXY TCP6 2001:db8::7 ::1 5 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xcb\0\x71\x07\x7f\0\0\x01\0\x05\0\x50\x20\0\0GET",
];

/// Messages of HTTP/1 with all that frames them, and a chunked body.
const HTTP1_REQUESTS: [&[u8]; 5] = [
    b"GET /a?b HTTP/1.1\r\nHost: x\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\n\r\n",
    b"POST http://x/a#b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhelloGET /b HTTP/1.0\nHost: x\n\n",
    b"PUT / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\nProxy: x\r\n\r\n",
];
const HTTP1_ANSWERS: [&[u8]; 4] = [
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nto the end",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
];
const HTTP1_CHUNKS: [&[u8]; 2] = [b"5;a=\"b\" ;c\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET", b"0000\r\n\r\n"];

/// Manifests and configs of images, as registries hold them.
const IMAGE_MANIFESTS: [&[u8]; 3] = [
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:00","size":1,"platform":{"os":"linux","architecture":"amd64","variant":"v3"},"annotations":{"vnd.docker.reference.type":"x"}}]}"#,
    br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:00","size":1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:00","size":1,"urls":[]}]}"#,
    br#"{"os":"linux","architecture":"amd64","config":{"Cmd":["/x"],"User":"1:2"},"rootfs":{"diff_ids":["sha256:00"]}}"#,
];

/// Messages of a guest.
const GUEST_MESSAGES: [&str; 6] = [
    r#"{"hello":{"version":1}}"#,
    r#""created""#,
    r#"{"failed":{"container":3,"uploader":true,"step":"\u0001 isn't in the image","cause":""}}"#,
    r#"{"failed":{"container":null,"uploader":false,"step":"","cause":"x"}}"#,
    r#"{"exited":{"container":0,"exit":{"signal":9},"out_of_memory":true}}"#,
    r#""done""#,
];
/// Pieces of its containers' output: empty, at the ends of names, and unknown.
const GUEST_OUTPUT: [&[u8]; 3] = [b"\0\0\0\x03\0one\x02\0\x01\x03\0two", b"\0\0\0\0\0\x01\0\x01\x01\0x", b"\0\0\x02\x01\0x"];

/// Headers of archives: kind, name, size in octal, and what comes behind.
const ENTRIES: [(u8, &str, &[u8]); 7] = [
    (b'0', "f", b"x"),
    (b'5', "d/", b""),
    (b'2', "l", b""),
    (b'L', "././@LongLink", b"name\0"),
    (b'x', "pax", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.realsize=9\n"),
    (b'0', "sparse", b"1\n0\n5\n"),
    (b'x', "pax", b"21 GNU.sparse.size=9\n26 GNU.sparse.numblocks=1\n22 GNU.sparse.map=0,1\n"),
];

/// An archive of the entries above, from one of them on.
fn archive(first: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, content) in ENTRIES.iter().skip(first) {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = *kind;
        header[257..265].copy_from_slice(b"ustar  \0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn rows(file: &str) -> Result<Vec<Value>, Box<dyn Error>> {
    Ok(serde_json::from_slice(&fs::read(file).map_err(|error| format!("{file}: {error}"))?)?)
}

fn write(corpus: &Path, target: &str, row: usize, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let directory = corpus.join(target);
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join(format!("seed-{row}")), bytes)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [vectors, verdicts, corpus] = arguments.as_slice() else { return Err("seed VECTORS VERDICTS CORPUS".into()) };
    let corpus = Path::new(corpus);
    for (row, vector) in rows(vectors)?.iter().enumerate() {
        let bytes = hex::decode(vector["hex"].as_str().ok_or("a vector without hex")?)?;
        for target in targets_of(vector["kind"].as_str().ok_or("a vector without a kind")?) {
            write(corpus, target, row, &bytes)?;
        }
    }
    for (row, verdict) in rows(verdicts)?.iter().enumerate() {
        write(corpus, "manifest", row, verdict["body"].to_string().as_bytes())?;
    }
    for (row, header) in PROXY_HEADERS.iter().enumerate() {
        write(corpus, "proxy_protocol", row, header)?;
    }
    for (row, manifest) in IMAGE_MANIFESTS.iter().enumerate() {
        write(corpus, "image_manifest", row, manifest)?;
    }
    for (target, messages) in [("http1_requests", &HTTP1_REQUESTS[..]), ("http1_answers", &HTTP1_ANSWERS), ("http1_chunks", &HTTP1_CHUNKS)]
    {
        for (row, message) in messages.iter().enumerate() {
            write(corpus, target, row, message)?;
        }
    }
    let frame = |message: &str| Ok::<_, Box<dyn Error>>([&u32::try_from(message.len())?.to_le_bytes(), message.as_bytes()].concat());
    let frames = GUEST_MESSAGES.into_iter().map(frame).collect::<Result<Vec<_>, _>>()?;
    for (row, message) in frames.iter().chain([&frames.concat()]).enumerate() {
        write(corpus, "guest_messages", row, message)?;
    }
    for (row, pieces) in GUEST_OUTPUT.iter().enumerate() {
        write(corpus, "guest_output", row, pieces)?;
    }
    for first in 0..ENTRIES.len() {
        write(corpus, "layer", first, &archive(first))?;
    }
    Ok(())
}
