//! `seed VECTORS VERDICTS CORPUS`: writes each recorded packet and upload, good and bad, to the corpora of the targets that read such bytes.

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
    Ok(())
}
