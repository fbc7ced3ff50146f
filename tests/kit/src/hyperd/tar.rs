//! Images that come as a file, in the format of `docker save`.

use serde_json::Value;

const BLOCK: usize = 512;

/// An image of an archive.
#[derive(Debug)]
pub(super) struct Loaded {
    pub id: String,
    pub names: Vec<String>,
    pub command: Vec<String>,
}

/// The images of an archive; nothing if it is none.
pub(super) fn images(archive: &[u8]) -> Option<Vec<Loaded>> {
    let manifest: Value = serde_json::from_slice(file(archive, "manifest.json")?).ok()?;
    manifest.as_array()?.iter().map(|image| loaded(archive, image)).collect()
}

fn loaded(archive: &[u8], image: &Value) -> Option<Loaded> {
    let path = image.get("Config")?.as_str()?;
    let config: Value = serde_json::from_slice(file(archive, path)?).ok()?;
    let words = |key: &str| {
        let words = config.get("config").and_then(|config| config.get(key)).and_then(Value::as_array);
        words.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let id = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    let names = image.get("RepoTags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    Some(Loaded {
        id: format!("sha256:{id}"),
        names: names.map(str::to_owned).collect(),
        command: [words("Entrypoint"), words("Cmd")].concat(),
    })
}

/// A file of an archive.
fn file<'a>(mut archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    while let Some(header) = archive.get(..BLOCK).filter(|header| header.get(257..262) == Some(b"ustar")) {
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim_matches(['\0', ' ']).to_owned();
        let length = usize::from_str_radix(&text(124..136), 8).ok()?;
        if text(0..100).trim_start_matches("./") == name {
            return archive.get(BLOCK..BLOCK + length);
        }
        archive = archive.get(BLOCK + length.next_multiple_of(BLOCK)..)?;
    }
    None
}
