//! `codiusd certs dev`: certificates for TLS in development, from a local authority.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Subcommand;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};

use super::failure;

/// Names in every certificate. Few clients accept `*.localhost`: a wildcard must be followed by two labels.
const NAMES: [&str; 6] = ["codius.localhost", "*.codius.localhost", "localhost", "*.localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Validity of a certificate: some clients reject longer ones.
const CERTIFICATE_DAYS: u32 = 397;
const AUTHORITY_DAYS: u32 = 3650;

#[derive(Debug, Subcommand)]
pub(super) enum CertsCommand {
    /// Make a certificate for development, from an authority that only you trust
    ///
    /// It is for localhost, codius.localhost and the names below them, and for the names that are given. The authority is made once
    /// and kept, so that it has to be trusted once; the certificate is made anew each time, and a host that runs takes it up.
    Dev {
        /// Directory the files are written into; made if it isn't there
        #[arg(default_value = "certs/dev")]
        directory: PathBuf,
        /// Another name the certificate is for, such as *.codius.example; may be given again
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, thiserror::Error)]
enum CertsError {
    #[error("can't write {path}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("can't read {path}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{path} is not a CA key; remove the directory to create a new CA", path = .0.display())]
    Key(PathBuf, #[source] rcgen::Error),
    #[error("can't make a certificate for these names")]
    Names(#[source] rcgen::Error),
    #[error("can't make a certificate")]
    Make(#[source] rcgen::Error),
}

/// The files that were written.
struct Made {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    names: Vec<String>,
}

pub(super) fn run(command: &CertsCommand) -> ExitCode {
    let CertsCommand::Dev { directory, names } = command;
    match make(directory, names) {
        Ok(made) => {
            print!("{}", explain(&made));
            ExitCode::SUCCESS
        }
        Err(error) => failure(&error),
    }
}

fn make(directory: &Path, more: &[String]) -> Result<Made, CertsError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory).and_then(|()| directory.canonicalize());
    let directory = made.map_err(|error| CertsError::Write(directory.to_owned(), error))?;
    let file = |name: &str| directory.join(name);
    let (authority, certificate, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));

    let mut names: Vec<String> = NAMES.map(str::to_owned).to_vec();
    names.extend(more.iter().filter(|name| !NAMES.contains(&name.as_str())).cloned());
    let mut params = CertificateParams::new(names.clone()).map_err(CertsError::Names)?;
    params.distinguished_name.push(DnType::CommonName, "codiusd development");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    good_for(&mut params, CERTIFICATE_DAYS);

    let issuer = issuer(&authority, &file("ca-key.pem"))?;
    let pair = KeyPair::generate().map_err(CertsError::Make)?;
    let signed = params.signed_by(&pair, &issuer).map_err(CertsError::Make)?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&certificate, &signed.pem(), 0o644)?;
    Ok(Made { authority, certificate, key, names })
}

/// The authority in these files, created if missing. Its name never changes, so only its key has to be read.
fn issuer(certificate: &Path, key: &Path) -> Result<Issuer<'static, KeyPair>, CertsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "codiusd development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    good_for(&mut params, AUTHORITY_DAYS);
    let known = match (fs::read_to_string(key), certificate.exists()) {
        (Ok(pem), true) => Some(pem),
        (Ok(_), false) => None,
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => None,
        (Err(error), _) => return Err(CertsError::Read(key.to_owned(), error)),
    };
    if let Some(pem) = known {
        let pair = KeyPair::from_pem(&pem).map_err(|error| CertsError::Key(key.to_owned(), error))?;
        return Ok(Issuer::new(params, pair));
    }
    let pair = KeyPair::generate().map_err(CertsError::Make)?;
    let own = params.self_signed(&pair).map_err(CertsError::Make)?;
    write(key, &pair.serialize_pem(), 0o600)?;
    write(certificate, &own.pem(), 0o644)?;
    Ok(Issuer::new(params, pair))
}

/// Sets the validity. It starts yesterday, as clocks differ.
fn good_for(params: &mut CertificateParams, days: u32) {
    let epoch = date_time_ymd(1970, 1, 1);
    let yesterday = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(DAY);
    params.not_before = epoch + yesterday;
    params.not_after = epoch + yesterday + DAY * days;
}

/// Replaces the file atomically: a host may be reading it.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let fail = |error| CertsError::Write(path.to_owned(), error);
    let unfinished = path.with_extension("tmp");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(&unfinished).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| fs::rename(&unfinished, path)).map_err(fail)
}

fn explain(made: &Made) -> String {
    let Made { authority, certificate, key, names } = made;
    let (authority, certificate, key) = (authority.display(), certificate.display(), key.display());
    format!(
        "{certificate} is for {names} ({CERTIFICATE_DAYS} days).

Serve with it:
  CODIUS_TLS_LISTEN=127.0.0.1:3443
  CODIUS_TLS_CERTS={certificate}:{key}
  CODIUS_PUBLIC_URI=https://codius.localhost:3443

Trust its authority, whose key can vouch for any name (keep it on this machine), in one program:
  curl --cacert {authority} https://codius.localhost:3443/version
  SSL_CERT_FILE={authority} codiusd upload ...
  NODE_EXTRA_CA_CERTS={authority} codius upload ...
or everywhere on this machine:
  cp {authority} /usr/local/share/ca-certificates/codiusd-dev.crt && update-ca-certificates
Browsers have lists of their own: import {authority} in their settings, as an authority for web sites.
",
        names = names.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::TlsChoice;
    use codiusd_proxy::CertificateFiles;

    #[test]
    fn the_authority_stays_and_the_certificate_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("a/b");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let first = make(&directory, &[]).unwrap();
        let (authority, certificate) = (read(&first.authority), read(&first.certificate));
        let second = make(&directory, &["*.codius.example".to_owned(), "localhost".to_owned()]).unwrap();
        assert_eq!(read(&second.authority), authority);
        assert_ne!(read(&second.certificate), certificate);
        assert_eq!(second.names[..6], NAMES);
        assert_eq!(second.names[6..], ["*.codius.example"]);
        for secret in ["ca-key.pem", "key.pem"] {
            assert_eq!(fs::metadata(directory.join(secret)).unwrap().permissions().mode() & 0o777, 0o600, "{secret}");
        }
        let certificates = vec![CertificateFiles { chain: second.certificate, key: second.key }];
        TlsChoice { listen: Vec::new(), certificates, redirect: false, hsts_seconds: 0 }.load().unwrap();
    }

    #[test]
    fn what_is_no_key_or_no_name_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let made = make(directory.path(), &["ü".to_owned()]);
        assert!(matches!(made, Err(CertsError::Names(_))));
        make(directory.path(), &[]).unwrap();
        fs::write(directory.path().join("ca-key.pem"), "nothing").unwrap();
        assert!(matches!(make(directory.path(), &[]), Err(CertsError::Key(..))));
    }
}
