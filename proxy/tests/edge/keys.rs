//! Several certificates for one name: each client is shown the one it can check.

use codiusd_proxy::Limits;
use rcgen::{KeyPair, date_time_ymd};
use tokio::process::Command;

use crate::kit::within;
use crate::secure::{Authority, TlsFixture, in_file, shown};

/// An RSA key, which the library that issues can use and not make.
async fn rsa() -> KeyPair {
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let made = within("openssl genpkey", openssl.output()).await.unwrap();
    if made.status.success() {
        return KeyPair::from_pem(&String::from_utf8(made.stdout).unwrap()).unwrap();
    }
    // Before 3.2 it knows no -quiet.
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let made = within("openssl genpkey", openssl.output()).await.unwrap();
    KeyPair::from_pem(&String::from_utf8(made.stdout).unwrap()).unwrap()
}

/// The kind of key of the certificate that openssl is shown with these options: the "Peer signature type" it tells.
async fn signature(fixture: &TlsFixture, options: &[&str]) -> String {
    let mut openssl = Command::new("openssl");
    let address = fixture.fixture.edge.tls_addresses()[0].to_string();
    openssl.args(["s_client", "-connect", &address]).args(options);
    if !options.iter().any(|option| option.contains("servername")) {
        openssl.args(["-servername", "a.codius.localhost"]);
    }
    openssl.stdin(std::process::Stdio::null());
    let told = within("openssl s_client", openssl.output()).await.unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let kind = told.lines().find_map(|line| line.strip_prefix("Peer signature type: ")).unwrap_or("none").to_owned();
    // Older ones call the padding's kind by its name.
    if kind.starts_with("RSA") { "RSA".to_owned() } else { kind }
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_it_can_check() {
    let (authority, rsa) = (Authority::new(), rsa().await);
    let names = ["*.codius.localhost", "localhost"];
    let curve = authority.issue("curve", &names);
    let old = authority.issue_for("rsa", &names, &rsa, |_| {});
    for order in [vec![curve.clone(), old.clone()], vec![old, curve]] {
        let fixture = TlsFixture::of(Authority::new(), order, Limits::default(), |_| {}).await;
        let table: &[(&[&str], &str)] = &[
            (&[], "ECDSA"),
            (&["-tls1_3"], "ECDSA"),
            (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "RSA"),
            (&["-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"], "ECDSA"),
            (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256"], "ECDSA"),
            (&["-tls1_2"], "ECDSA"),
            (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA"),
            (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDSA"),
            (&["-tls1_2", "-sigalgs", "RSA+SHA256"], "RSA"),
            (&["-tls1_2", "-sigalgs", "ECDSA+SHA256"], "ECDSA"),
            // Nobody is named: the first certificate's first name is meant.
            (&["-noservername", "-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "RSA"),
            (&["-servername", "elsewhere.example", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA"),
        ];
        for (options, kind) in table {
            assert_eq!(signature(&fixture, options).await, *kind, "{options:?}");
        }
        let metric = |key: &str| {
            fixture.fixture.registry.gather().iter().any(|family| {
                family.name() == "codius_edge_certificate_expiry_seconds"
                    && family.get_metric().iter().any(|metric| metric.get_label().iter().any(|label| label.value() == key))
            })
        };
        assert!(metric("ecdsa") && metric("rsa"));
        assert_eq!(fixture.certificates.ends_for("a.codius.localhost").len(), 2);
    }
}

#[tokio::test]
async fn one_that_has_ended_or_ends_sooner_shadows_no_other() {
    let names = ["*.codius.localhost"];
    let authority = Authority::new();
    let until = |stem: &str, year| {
        authority.issue_for(stem, &names, &KeyPair::generate().unwrap(), |params| params.not_after = date_time_ymd(year, 1, 1))
    };
    let (over, sooner, later) = (until("over", 2020), until("sooner", 2090), until("later", 2095));
    let rsa = authority.issue_for("rsa", &names, &rsa().await, |_| {});
    let cases = [
        (vec![over.clone(), sooner.clone(), later.clone()], &later),
        (vec![later.clone(), sooner.clone(), over.clone()], &later),
        (vec![over.clone(), sooner.clone()], &sooner),
        // An elliptic curve's is preferred, but not one that has ended.
        (vec![over.clone(), rsa.clone()], &rsa),
    ];
    for (files, expected) in cases {
        let fixture = TlsFixture::of(Authority::new(), files.clone(), Limits::default(), |_| {}).await;
        let stream = fixture.handshake(&authority.client(&[]), "a.codius.localhost").await.unwrap();
        assert!(shown(&stream) == in_file(&expected.chain), "{files:?}");
    }
}
