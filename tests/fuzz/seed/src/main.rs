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
    Ok(())
}
