//! Certificates by server name, and by what the client can check: one name may have several, such as one with an elliptic curve and one
//! with RSA for old clients. Of those that the client can check an elliptic curve's is shown first (it costs less), then the one that
//! ends last; one that has ended only if there is no other.
//!
//! Files that change are read again; what can't be used is said, and the one before stays in use.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::SignatureAlgorithm;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

/// Bytes a file may have: a long chain has a hundredth of that.
const FILE_BYTES: u64 = 1024 * 1024;

/// A certificate with the chain to its root, and its key, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those that vouch for it.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .path.display())]
pub struct CertificateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// The certificates of an edge, shared with whoever may want them read again.
#[derive(Debug)]
pub struct Certificates {
    pairs: Mutex<Vec<Pair>>,
    names: RwLock<Arc<Names>>,
    /// How often one was read again, and how often one could not be used.
    reloads: (AtomicU64, AtomicU64),
}

/// One certificate as it is in use, and what its files have been since.
#[derive(Debug)]
struct Pair {
    files: CertificateFiles,
    used: Loaded,
    /// What is in the files and can't be used, and whether that was said.
    refused: Option<(u64, bool)>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    names: Vec<Box<str>>,
    not_after: i64,
    /// Of the files' contents.
    digest: u64,
}

/// Which certificates prove which name.
#[derive(Debug)]
struct Names {
    /// Those of the first one's first name.
    default: Vec<Candidate>,
    /// Lower case; a wildcard stands as it is in the certificate, `*.localhost`. The one that is shown first is the first.
    by_name: HashMap<Box<str>, Vec<Candidate>>,
    /// The first name of each and the kind of its key, and the end of the earliest to end of those, in seconds since 1970.
    ends: BTreeMap<(Box<str>, KeyKind), i64>,
}

/// A certificate that may be shown.
#[derive(Debug, Clone)]
struct Candidate {
    key: Arc<CertifiedKey>,
    not_after: i64,
}

/// What a certificate's key is, in the order of our preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// An elliptic curve's.
    Ecdsa,
    /// Ed25519 or Ed448, which browsers don't know.
    EdDsa,
    /// RSA.
    Rsa,
}

impl KeyKind {
    fn of(key: &CertifiedKey) -> KeyKind {
        match key.key.algorithm() {
            SignatureAlgorithm::ECDSA => KeyKind::Ecdsa,
            SignatureAlgorithm::RSA => KeyKind::Rsa,
            _ => KeyKind::EdDsa,
        }
    }

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            KeyKind::Ecdsa => "ecdsa",
            KeyKind::EdDsa => "eddsa",
            KeyKind::Rsa => "rsa",
        }
    }
}

/// When a certificate that can't be used is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// The operator has said that it is there.
    None,
    /// Two files are never written at one moment: what is wrong twice in a row is wrong.
    Once,
}

/// What reading a certificate's files again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// What was there, or something that is not wrong yet.
    Same,
    /// Another certificate, in use now.
    Better,
    /// What can't be used, and was said to be so.
    Worse,
}

impl Certificates {
    /// Reads the certificates; the first, or another one for its first name, is shown to clients that ask for a name none is for.
    pub fn load(files: Vec<CertificateFiles>) -> Result<Self, CertificateError> {
        let pairs = files.into_iter().map(|files| {
            let contents = Contents::read(&files)?;
            let used = contents.parse(&files)?;
            warn_if_over(&files, used.not_after);
            Ok(Pair { files, used, refused: None })
        });
        let pairs = pairs.collect::<Result<Vec<_>, CertificateError>>()?;
        let names = RwLock::new(Arc::new(Names::of(&pairs)));
        Ok(Self { pairs: Mutex::new(pairs), names, reloads: Default::default() })
    }

    /// Reads all files now, and says what can't be used. Connections go on as they are.
    pub fn reload(&self) {
        self.refresh(Patience::None);
    }

    /// Reads the files that changed. Blocks for as long as that takes.
    pub(crate) fn refresh_if_changed(&self) {
        self.refresh(Patience::Once);
    }

    fn refresh(&self, patience: Patience) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<Found> = pairs.iter_mut().map(|pair| pair.refresh(patience)).collect();
        for (counter, counted) in [(&self.reloads.0, Found::Better), (&self.reloads.1, Found::Worse)] {
            let times = found.iter().filter(|found| **found == counted).count();
            counter.fetch_add(u64::try_from(times).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if found.contains(&Found::Better) {
            *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Names::of(&pairs));
        }
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When those that are shown for `name` end, in seconds since 1970, by the kinds of their keys; empty: none of them is for it.
    pub fn ends_for(&self, name: &str) -> BTreeMap<KeyKind, i64> {
        let mut ends = BTreeMap::new();
        for candidate in self.names().candidates(name) {
            let end = ends.entry(KeyKind::of(&candidate.key)).or_insert(i64::MIN);
            *end = candidate.not_after.max(*end);
        }
        ends
    }

    /// When those in use end, in seconds since 1970, by their first name and the kind of their key.
    pub(crate) fn ends(&self) -> BTreeMap<(Box<str>, KeyKind), i64> {
        self.names().ends.clone()
    }

    /// How many were read again, and how many could not be used.
    pub(crate) fn reloads(&self) -> (u64, u64) {
        (self.reloads.0.load(Ordering::Relaxed), self.reloads.1.load(Ordering::Relaxed))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_check = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.names.read().unwrap_or_else(PoisonError::into_inner).find(hello.server_name(), can_check, now())
    }
}

impl Names {
    fn of(pairs: &[Pair]) -> Names {
        let (mut by_name, mut ends) = (HashMap::<Box<str>, Vec<Candidate>>::new(), BTreeMap::new());
        for Pair { used, .. } in pairs {
            let first = used.names.first().cloned().unwrap_or_else(|| Box::from("(none)"));
            let end = ends.entry((first, KeyKind::of(&used.key))).or_insert(i64::MAX);
            *end = used.not_after.min(*end);
            for name in &used.names {
                by_name.entry(name.clone()).or_default().push(Candidate::of(used));
            }
        }
        for candidates in by_name.values_mut() {
            candidates.sort_by_key(|candidate| (KeyKind::of(&candidate.key), Reverse(candidate.not_after)));
        }
        let first = pairs.first().map(|pair| &pair.used);
        let default = first.map_or_else(Vec::new, |used| {
            let named = used.names.first().and_then(|name| by_name.get(name));
            named.cloned().unwrap_or_else(|| vec![Candidate::of(used)])
        });
        Names { default, by_name, ends }
    }

    /// Those that prove `name`, what names it exactly first.
    fn candidates(&self, name: &str) -> impl Iterator<Item = &Candidate> {
        let name = name.to_ascii_lowercase();
        let wildcard = name.split_once('.').and_then(|(_, parent)| self.by_name.get(format!("*.{parent}").as_str()));
        self.by_name.get(name.as_str()).into_iter().chain(wildcard).flatten()
    }

    /// The one that is shown at `now` to a client that asks for `name`.
    fn find(&self, name: Option<&str>, can_check: impl Fn(&CertifiedKey) -> bool, now: i64) -> Option<Arc<CertifiedKey>> {
        let mut candidates: Vec<&Candidate> = name.into_iter().flat_map(|name| self.candidates(name)).collect();
        if candidates.is_empty() {
            candidates = self.default.iter().collect();
        }
        let suitable = || candidates.iter().filter(|candidate| can_check(&candidate.key));
        let best = suitable().find(|candidate| candidate.not_after >= now).or_else(|| suitable().next());
        // One that it can't check tells it more than none.
        best.or_else(|| candidates.first()).map(|candidate| Arc::clone(&candidate.key))
    }
}

impl Candidate {
    fn of(loaded: &Loaded) -> Candidate {
        Candidate { key: Arc::clone(&loaded.key), not_after: loaded.not_after }
    }
}

impl Pair {
    fn refresh(&mut self, patience: Patience) -> Found {
        let contents = Contents::read(&self.files);
        let digest = contents.as_ref().map_or(0, Contents::digest);
        if digest == self.used.digest {
            self.refused = None;
            return Found::Same;
        }
        match contents.and_then(|contents| contents.parse(&self.files)) {
            Ok(loaded) => {
                tracing::info!(file = %self.files.chain.display(), names = ?loaded.names, "certificate reloaded");
                warn_if_over(&self.files, loaded.not_after);
                self.used = loaded;
                self.refused = None;
                Found::Better
            }
            Err(error) => self.refuse(digest, &error, patience),
        }
    }

    fn refuse(&mut self, digest: u64, error: &CertificateError, patience: Patience) -> Found {
        let (again, said) = self.refused.filter(|(known, _)| *known == digest).map_or((false, false), |(_, said)| (true, said));
        let say = patience == Patience::None || (again && !said);
        if say {
            tracing::error!(%error, "new certificate unusable; the previous one stays in use (tls.certificates, CODIUS_TLS_CERTS)");
        }
        self.refused = Some((digest, said || say));
        if say { Found::Worse } else { Found::Same }
    }
}

fn warn_if_over(files: &CertificateFiles, not_after: i64) {
    if not_after < now() {
        tracing::error!(file = %files.chain.display(), "certificate expired; browsers warn visitors (tls.certificates, CODIUS_TLS_CERTS)");
    }
}

/// In seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// What is in the two files.
struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    fn read(files: &CertificateFiles) -> Result<Contents, CertificateError> {
        Ok(Contents { chain: read(&files.chain)?, key: read(&files.key)? })
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.chain, &self.key).hash(&mut hasher);
        hasher.finish()
    }

    fn parse(&self, files: &CertificateFiles) -> Result<Loaded, CertificateError> {
        let wrong_chain = |problem: &str| wrong(&files.chain, problem);
        let wrong_key = |problem: &str| wrong(&files.key, problem);
        let chain = CertificateDer::pem_slice_iter(&self.chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| wrong_chain("isn't PEM"))?;
        let first = chain.first().ok_or_else(|| wrong_chain("holds no certificate"))?;
        let (names, not_after) = names_and_end(first).ok_or_else(|| wrong_chain("holds a certificate that can't be read"))?;
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| wrong_key("holds no private key in PEM, or one with a passphrase"))?;
        let signer = ring::sign::any_supported_type(&key).map_err(|_| wrong_key("holds a private key of a kind that isn't supported"))?;
        let key = CertifiedKey::new(chain, signer);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(wrong_key(&format!("isn't the key of the certificate in {}", files.chain.display()))),
        }
        Ok(Loaded { key: Arc::new(key), names, not_after, digest: self.digest() })
    }
}

fn wrong(path: &Path, problem: &str) -> CertificateError {
    CertificateError { path: path.to_owned(), problem: problem.to_owned() }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let fail = |error: io::Error| wrong(path, &format!("can't be read: {error}"));
    let size = fs::metadata(path).map_err(fail)?.len();
    if size > FILE_BYTES {
        return Err(wrong(path, "is too large for a certificate or key"));
    }
    fs::read(path).map_err(fail)
}

/// The DNS names a certificate is for, and when it ends in seconds since 1970.
fn names_and_end(certificate: &CertificateDer<'_>) -> Option<(Vec<Box<str>>, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let alternatives = parsed.subject_alternative_name().ok()?;
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into_boxed_str()),
        _ => None,
    });
    Some((names.collect(), parsed.validity().not_after.timestamp()))
}
