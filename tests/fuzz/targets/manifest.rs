//! Uploads: one name for a manifest however it is read, and what is stored of it can be read again.
#![no_main]

use codiusd_control::manifest::{ManifestHash, Rules, Upload};
use codiusd_fuzz as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let rules = Rules::default();
    let asked = Upload::parse_question(body, &rules);
    let file = Upload::parse_file(body, &rules);
    let Ok(upload) = Upload::parse(body, &rules) else { return };
    let hash = upload.hash();
    assert_eq!(asked.as_ref().map(Upload::hash), Ok(hash));
    assert_eq!(file.as_ref().map(Upload::hash), Ok(hash));
    assert_eq!(hash.to_string().parse::<ManifestHash>().as_ref(), Ok(hash));

    let stored = format!("{{\"manifest\":{}}}", upload.json());
    assert_eq!(Upload::parse_question(stored.as_bytes(), &rules).as_ref().map(Upload::hash), Ok(hash));
    let bare = Upload::parse_file(upload.json().as_bytes(), &rules);
    assert_eq!(bare.as_ref().map(Upload::hash), Ok(hash));
});
