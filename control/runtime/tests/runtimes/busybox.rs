//! The image of the cases: busybox in a lower layer, small files in an upper one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes it as an OCI layout, to be run as `user`, and answers its reference.
pub(crate) fn write(layouts: &Path, user: &str) -> String {
    write_with(layouts, user, &[])
}

/// The same with files of this machine at their own paths, programs among them.
pub(crate) fn write_with(layouts: &Path, user: &str, files: &[PathBuf]) -> String {
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    let layers = [
        layer(&[("bin/busybox", &busybox, 0o755), ("etc/shadowed", b"lower", 0o644)]),
        layer(&[
            ("bin/sh", b"#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n", 0o755),
            ("bin/not-a-program", b"\x7fELF nothing", 0o755),
            ("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nweb:x:101:102:web:/:/bin/sh\n", 0o644),
            ("etc/shadowed", b"upper", 0o644),
        ]),
    ];
    let mut layers = Vec::from(layers);
    if !files.is_empty() {
        let files: Vec<(&str, Vec<u8>)> =
            files.iter().map(|path| (path.to_str().unwrap().trim_start_matches('/'), fs::read(path).unwrap())).collect();
        layers.push(layer(&files.iter().map(|(path, content)| (*path, &**content, 0o755)).collect::<Vec<_>>()));
    }
    write_image(layouts, &layers, &json!({ "Cmd": ["/bin/busybox", "httpd", "-f", "-p", "8080"], "User": user }))
}

/// An image of any layers that says anything of itself.
pub(crate) fn write_image(layouts: &Path, layers: &[Vec<u8>], settings: &Value) -> String {
    let blobs = layouts.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).unwrap();
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let stored: Vec<_> = layers.iter().map(|tar| put("layer.v1.tar", tar)).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": settings,
        "rootfs": { "type": "layers", "diff_ids": stored.iter().map(|layer| &layer["digest"]).collect::<Vec<_>>() },
    });
    let config = put("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": stored,
    });
    let manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    fs::write(layouts.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()).unwrap();
    fs::write(layouts.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    format!("local/busybox@{}", manifest["digest"].as_str().unwrap())
}

pub(crate) fn layer(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}
