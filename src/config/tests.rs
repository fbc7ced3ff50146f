use std::{io::Write, time::Duration};

use codiusd_proxy::CertificateFiles;

use super::*;

fn read(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file.as_bytes()).unwrap();
    Config::read(Some(path.path()), environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let config = read("dev = true\n[edge]\nport = 4000\n[pricing]\ncost_per_month = 2.5", &[("CODIUS_PORT", "5000")]).unwrap();
    assert_eq!(config.listen, "127.0.0.1:5000".parse().unwrap());
    assert_eq!(config.cost_per_month.to_string(), "2.5");
    assert_eq!(config.root, Path::new("/var/lib/codius"));
    assert_eq!(config.ilp, IlpChoice::Embedded(vec!["127.0.0.1:7768".parse().unwrap(), "[::1]:7768".parse().unwrap()]));
}

#[test]
fn names_of_the_node_codiusd_are_kept() {
    let base = ("CODIUS_PUBLIC_URI", "https://codius.example.com");
    for name in ["CODIUS_COST_PER_MONTH", "COST_PER_MONTH", "CODIUS_XRP_PER_MONTH"] {
        assert_eq!(read("", &[base, (name, "0.1")]).unwrap().cost_per_month.to_string(), "0.1", "{name}");
    }
    let runtime = |environment: &[(&str, &str)]| read("", &[&[base], environment].concat()).unwrap().runtime;
    assert_eq!(runtime(&[]), RuntimeChoice::Embedded);
    assert_eq!(runtime(&[("CODIUS_HYPER_SOCKET", "/run/h.sock")]), RuntimeChoice::Hyperd("/run/h.sock".into()));
    assert_eq!(runtime(&[("CODIUS_HYPER_SOCKET", "/run/h.sock"), ("CODIUS_HYPER_NOOP", "true")]), RuntimeChoice::Noop);
    assert_eq!(runtime(&[("CODIUS_HYPER_NOOP", "true"), ("CODIUS_RUNTIME", "embedded")]), RuntimeChoice::Embedded);
    let credentials = ("ILP_CREDENTIALS", r#"{"server":"btp+ws://:s3cret@connector:7768"}"#);
    let config = read("", &[base, credentials]).unwrap();
    assert_eq!(config.ilp, IlpChoice::Uplink(Some("btp+ws://:s3cret@connector:7768".parse().unwrap())));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn what_pods_get_has_units_and_logins_are_not_shown() {
    let logins = ("CODIUS_REGISTRY_CREDENTIALS", r#"{"docker.io":"me:s3cret:with:colons"}"#);
    let dev = ("CODIUS_DEV", "true");
    let config = read("[pods]\ndisk = \"own\"\ndns = [\"9.9.9.9\"]\n[images]\nallow = [\"ghcr.io/us\"]", &[dev, logins]).unwrap();
    assert_eq!((config.pod_disk, config.image_disk), (ScratchLimit::Disk, 40 << 30));
    assert_eq!(
        (config.network.nameservers.clone(), config.registries.allow.clone()),
        (vec![Ipv4Addr::new(9, 9, 9, 9)], vec!["ghcr.io/us".to_owned()])
    );
    for (set, bridge) in [("hyperd.bridge = \"none\"", ""), ("hyperd.bridge = \"\"", ""), ("", "hyper0")] {
        assert_eq!(read(set, &[dev]).unwrap().hyper_bridge, bridge, "{set}");
    }
    for (set, bytes) in [
        ("", 25_000_000),
        ("pods.bandwidth = \"8Mbit/s\"", 1_000_000),
        ("pods.bandwidth = \"unlimited\"", 0),
        ("pods.bandwidth = \"30000Mbit/s\"", 3_750_000_000),
    ] {
        assert_eq!(read(set, &[dev]).unwrap().network.bytes_per_second, bytes, "{set}");
    }
    let login = &config.registries.credentials[0];
    assert_eq!((&*login.registry, &*login.username, &*login.password), ("index.docker.io", "me", "s3cret:with:colons"));
    assert!(!format!("{config:?}").contains("s3cret"));
    assert_eq!(read("", &[dev, ("CODIUS_POD_DISK", "memory")]).unwrap().pod_disk, ScratchLimit::Memory);
}

const DEV: (&str, &str) = ("CODIUS_DEV", "true");
/// Wrong settings, and the expected error.
const WRONG: &[(&[(&str, &str)], &str)] = &[
    (&[("CODIUS_PORT", "http"), DEV], "CODIUS_PORT = \"http\": must be a port number from 0 (any free one) to 65535"),
    (
        &[("CODIUS_PORT", "3000")],
        "public_uri (CODIUS_PUBLIC_URI) is not set: set it to the URI visitors reach this host at, such as https://codius.example.com",
    ),
    (
        &[("CODIUS_PUBLIC_URI", "https://192.0.2.1")],
        "CODIUS_PUBLIC_URI = \"https://192.0.2.1\": must be an http:// or https:// URI with a host name, as visitors see it, without user, query and fragment",
    ),
    (
        &[DEV, ("COST_PER_MONTH", "-1")],
        "COST_PER_MONTH = \"-1\": must be a decimal number of 0 or more with at most 18 digits, such as 10 or 0.25",
    ),
    (
        &[DEV, ("CODIUS_TLS_LISTEN", "0.0.0.0:443")],
        "tls.certificates (CODIUS_TLS_CERTS) is not set: TLS needs a certificate: set chain and key to its files (codiusd certs dev makes one to try with)",
    ),
    (
        &[DEV, ("CODIUS_HTTP_REDIRECT", "true")],
        "tls.listen (CODIUS_TLS_LISTEN) is not set: certificates and redirects to https need an address such as 0.0.0.0:443",
    ),
    (
        &[DEV, ("CODIUS_TLS_CERTS", "/a.pem:/a.key,b.pem:b.key")],
        "CODIUS_TLS_CERTS = \"/a.pem:/a.key,b.pem:b.key\": must be chain and key as absolute paths (in the environment CERT.pem:KEY.pem, separated by commas)",
    ),
    (
        &[DEV, ("CODIUS_PROXY_PROTOCOL", "127.0.0.1:3001"), ("CODIUS_TRUSTED_PROXIES", "10.0.0.1/32")],
        "CODIUS_PROXY_PROTOCOL = \"127.0.0.1:3001\": must be addresses the edge listens on: edge.bind_ip with edge.port, or one of tls.listen",
    ),
    (
        &[DEV, ("CODIUS_PROXY_PROTOCOL", "127.0.0.1:3000")],
        "edge.trusted_proxies (CODIUS_TRUSTED_PROXIES) is not set: edge.proxy_protocol needs the networks of the proxies that may speak it",
    ),
    (&[DEV, ("CODIUS_EDGE_CONNECTIONS", "0")], "CODIUS_EDGE_CONNECTIONS = \"0\": must be a number from 1 to 10000000"),
    (&[DEV, ("CODIUS_TLS_LISTEN", "443")], "CODIUS_TLS_LISTEN = \"443\": must be addresses such as 0.0.0.0:443,[::]:443"),
    (&[DEV, ("CODIUS_HSTS_SECONDS", "-1")], "CODIUS_HSTS_SECONDS = \"-1\": must be a duration such as 0s or 365d, up to 4294967295s"),
    (
        &[DEV, ("CODIUS_MAX_MEMORY_FRACTION", "1.5")],
        "CODIUS_MAX_MEMORY_FRACTION = \"1.5\": must be a decimal number above 0 and up to 1, such as 0.75",
    ),
    (&[DEV, ("CODIUS_RUNTIME", "docker")], "CODIUS_RUNTIME = \"docker\": must be embedded, hyperd or noop"),
    (
        &[DEV, ("ILP_CREDENTIALS", "ws://:s3cret@x")],
        "ILP_CREDENTIALS = \"(hidden)\": must be a btp+ws:// or btp+wss:// URL such as btp+wss://:secret@connector.example:7768, or JSON {\"server\":\"URL\"}",
    ),
    (
        &[DEV, ("RUST_LOG", "codiusd=loud")],
        "RUST_LOG = \"codiusd=loud\": must be a level (off, error, warn, info, debug, trace), or module=level separated by commas",
    ),
    (
        &[DEV, ("CODIUS_LOG", "info codiusd=debug")],
        "CODIUS_LOG = \"info codiusd=debug\": must be a level (off, error, warn, info, debug, trace), or module=level separated by commas",
    ),
    (
        &[DEV, ("CODIUS_LOG", "inof")],
        "CODIUS_LOG = \"inof\": must be a level (off, error, warn, info, debug, trace), or module=level separated by commas",
    ),
    (&[DEV, ("CODIUS_ROOT", "/srv/\u{fffd}")], "CODIUS_ROOT = \"/srv/\u{fffd}\": must be an absolute path"),
    (
        &[DEV, ("CODIUS_INSECURE_REGISTRIES", "http://reg:5000")],
        "CODIUS_INSECURE_REGISTRIES = \"http://reg:5000\": must be host:port, separated by commas",
    ),
    (
        &[DEV, ("CODIUS_POD_SUBNET", "10.200.0.1/16")],
        "CODIUS_POD_SUBNET = \"10.200.0.1/16\": must be a private IPv4 network such as 10.200.0.0/16",
    ),
    (
        &[DEV, ("CODIUS_POD_SUBNET", "127.0.0.0/8")],
        "CODIUS_POD_SUBNET = \"127.0.0.0/8\": must be a private IPv4 network such as 10.200.0.0/16",
    ),
    (
        &[("CODIUS_PUBLIC_URI", "https://u:p@codius.example/?a=1")],
        "CODIUS_PUBLIC_URI = \"https://u:p@codius.example/?a=1\": must be an http:// or https:// URI with a host name, as visitors see it, without user, query and fragment",
    ),
];

#[test]
fn a_bad_value_is_one_line_with_key_value_and_what_is_right() {
    for (environment, expected) in WRONG {
        let message = read("", environment).unwrap_err().to_string();
        assert_eq!(message, *expected);
        assert!(!message.contains('\n'));
    }
}

#[test]
fn what_pods_get_is_named_with_what_is_right() {
    let table = [
        ("CODIUS_POD_DISK", "1GB", "\"1GB\": must be own or memory"),
        ("CODIUS_IMAGE_DISK", "9MiB", "\"9MiB\": must be a size of at least 1GiB, such as 40GiB"),
        ("CODIUS_POD_DNS", "127.0.0.53", "\"127.0.0.53\": must be IPv4 addresses pods can reach, separated by commas"),
        ("CODIUS_HYPER_BRIDGE", "..", "\"..\": must be name of a network interface, or none"),
        ("CODIUS_POD_BANDWIDTH", "30001", "\"30001\": must be unlimited, or a rate from 1Mbit/s to 30000Mbit/s"),
        ("CODIUS_REGISTRIES_DENY", "https://ghcr.io", "\"https://ghcr.io\": must be host, host:port or host/path, separated by commas"),
        (
            "CODIUS_REGISTRY_CREDENTIALS",
            "{\"ghcr.io\":\"s3cret\"}",
            "\"(hidden)\": must be a table such as { \"ghcr.io\" = \"user:password\" } (in the environment the same as JSON)",
        ),
    ];
    for (name, value, expected) in table {
        let message = read("", &[("CODIUS_DEV", "true"), (name, value)]).unwrap_err().to_string();
        assert_eq!(message, format!("{name} = {expected}"));
    }
}

#[test]
fn tls_has_addresses_and_certificates() {
    let file = "dev = true\n[tls]\nlisten = [\"0.0.0.0:443\", \"[::]:443\"]\ncertificates = [{ chain = \"/a.pem\", key = \"/a.key\" }, { chain = \"/b.pem\", key = \"/b.key\" }]\nredirect_http = true\nhsts = \"1m\"";
    let pair = |chain: &str, key: &str| CertificateFiles { chain: chain.into(), key: key.into() };
    let expected = TlsChoice {
        listen: vec!["0.0.0.0:443".parse().unwrap(), "[::]:443".parse().unwrap()],
        certificates: vec![pair("/a.pem", "/a.key"), pair("/b.pem", "/b.key")],
        redirect: true,
        hsts_seconds: 60,
    };
    assert_eq!(read(file, &[]).unwrap().tls, Some(expected));
    assert_eq!(read("dev = true\n[tls]\nhsts = \"60s\"", &[]).unwrap().tls, None);
}

#[test]
fn proxies_in_front_speak_where_they_are_told_to() {
    let file = "dev = true\n[tls]\nlisten = [\"[::]:443\"]\ncertificates = [{ chain = \"/a.pem\", key = \"/a.key\" }]\n[edge]\ntrusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = [\"127.0.0.1:3000\", \"[::]:443\"]";
    let expected: Vec<SocketAddr> = vec!["127.0.0.1:3000".parse().unwrap(), "[::]:443".parse().unwrap()];
    assert_eq!(read(file, &[]).unwrap().proxy_protocol, expected);
}

/// A file with a mistake, and the expected error after the file's name.
const MISTAKES: &[(&str, &str)] = &[
    ("dev = true\n[pricing]\ncost_per_mont = 3", ": line 3: unknown key pricing.cost_per_mont; did you mean pricing.cost_per_month?"),
    ("CODIUS_PORT = 3", ": line 1: unknown key CODIUS_PORT; did you mean edge.port?"),
    ("\ntls_listen = []", ": line 2: unknown key tls_listen; did you mean tls.listen?"),
    ("port = 3", ": line 1: unknown key port; did you mean edge.port?"),
    ("zzz = 1", ": line 1: unknown key zzz"),
    ("[zzz]\na = 1", ": line 1: unknown key zzz"),
    ("tls = 1", ": line 1: tls is a table: write [tls] and its keys below"),
    ("dev = true\n[edge]\nport = \"3000\"", ":3: edge.port = \"3000\": must be a whole number, without quotes"),
    ("dev = \"true\"", ":1: dev = \"true\": must be true or false, without quotes"),
    (
        "dev = true\n[limits]\n\nheader_timeout = 10",
        ":4: limits.header_timeout = \"10\": must be a duration with its unit, such as \"10s\", \"15m\", \"1h\" or \"30d\"",
    ),
    (
        "dev = true\n[limits]\nheader_timeout = \"2h\"",
        ":3: limits.header_timeout = \"2h\": must be a duration such as 10s, from 1s to 3600s",
    ),
    ("dev = true\n[limits]\nheader_size = \"1MB\"", ":3: limits.header_size = \"1MB\": must be a size such as 64KiB, from 8KiB to 1MiB"),
    ("dev = true\n[tls]\nlisten = \"[::]:443\"", ":3: tls.listen = \"[::]:443\": must be an array of strings"),
    (
        "dev = true\n[tls]\ncertificates = [{ chain = \"/a\" }]",
        ":3: tls.certificates = \"[{ chain = \\\"/a\\\" }]\": must be an array of tables such as [{ chain = \"/etc/codius/cert.pem\", key = \"/etc/codius/key.pem\" }]",
    ),
    (
        "dev = true\n[uplink]\nurl = \"s3cret\"",
        ":3: uplink.url = \"(hidden)\": must be a btp+ws:// or btp+wss:// URL such as btp+wss://:secret@connector.example:7768, or JSON {\"server\":\"URL\"}",
    ),
    ("dev = true\n[uplink]\nurl = 17", ":3: uplink.url = \"(hidden)\": must be a string"),
    (
        "dev = true\n[uplink]\nurl_file = \"/no/such/file\"",
        ":3: uplink.url_file = \"/no/such/file\": No such file or directory (os error 2)",
    ),
    ("dev = true\n[[pod_size]]\nname = \"a\"\ncolour = 1", ":2: pod_size = "),
];

#[test]
fn a_mistake_in_the_file_is_one_line_with_its_line_key_value_and_remedy() {
    for (text, expected) in MISTAKES {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let message = Config::read(Some(file.path()), []).unwrap_err().to_string();
        let said = message.strip_prefix(&file.path().display().to_string()).unwrap_or_else(|| panic!("{message}"));
        assert!(said == *expected || expected.ends_with("= ") && said.starts_with(expected), "{said}\n{expected}");
        assert!(!message.contains('\n') && !message.contains("s3cret"), "{message}");
    }
    let missing = Config::read(Some(Path::new("/no/such/file.toml")), []).unwrap_err().to_string();
    assert_eq!(missing, "/no/such/file.toml: the file doesn't exist");
}

#[test]
fn secrets_may_be_in_files_of_their_own() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"btp+ws://:s3cret@connector:7768\n").unwrap();
    let expected = IlpChoice::Uplink(Some("btp+ws://:s3cret@connector:7768".parse().unwrap()));
    let path = secret.path().to_str().unwrap();
    assert_eq!(read(&format!("[uplink]\nurl_file = {path:?}"), &[DEV]).unwrap().ilp, expected);
    assert_eq!(read("", &[DEV, ("ILP_CREDENTIALS_FILE", path)]).unwrap().ilp, expected);
    let twice = read(&format!("[uplink]\nurl_file = {path:?}\nurl = \"x\""), &[DEV]).unwrap_err().to_string();
    assert_eq!(twice, "uplink.url and uplink.url_file are both set: keep one");
    let twice = read("", &[DEV, ("ILP_CREDENTIALS_FILE", path), ("ILP_CREDENTIALS", "x")]).unwrap_err().to_string();
    assert_eq!(twice, "ILP_CREDENTIALS and ILP_CREDENTIALS_FILE are both set: keep one");
    let endless = read("", &[DEV, ("ILP_CREDENTIALS_FILE", "/dev/zero")]).unwrap_err().to_string();
    assert_eq!(endless, "ILP_CREDENTIALS_FILE = \"/dev/zero\": the file is too large for a secret");
}

#[test]
fn the_shown_settings_are_a_valid_file_without_secrets() {
    let environment = [("CODIUS_DEV", "true"), ("ILP_CREDENTIALS", r#"{"server":"btp+ws://:s3cret@x"}"#)];
    let owned = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let empty = tempfile::NamedTempFile::new().unwrap();
    let settings = Settings::read(Some(empty.path()), owned).unwrap();
    let shown = settings.show(&Config::from_settings(&settings).unwrap());
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("dev = true # from CODIUS_DEV"), "{shown}");
    for chosen in ["public_uri = \"http://localhost:3000\"", "[runtime]\ntype = \"embedded\"", "[uplink]\ntype = \"btp\""] {
        assert!(shown.contains(chosen), "{chosen} in {shown}");
    }
    assert!(read(&shown, &[]).is_ok(), "{shown}");
}

#[test]
fn numbers_in_the_file_keep_their_digits() {
    let config = read("dev = true\npricing.cost_per_month = 0.123456789012345678", &[]).unwrap();
    assert_eq!(config.cost_per_month.to_string(), "0.123456789012345678");
    let message = read("dev = true\npricing.cost_per_month = 1e-7", &[]).unwrap_err().to_string();
    assert!(message.contains("= \"1e-7\": must be a decimal number"), "{message}");
}

#[test]
fn a_file_that_is_no_toml_is_told_by_its_line_and_not_shown() {
    let message = read("dev = true\nuplink.url = {\"server\":\"btp+ws://:s3cret@x\"}", &[]).unwrap_err().to_string();
    assert!(message.contains(": line 2: ") && !message.contains("s3cret") && !message.contains('\n'), "{message}");
}

#[test]
fn shares_are_up_to_all_of_it() {
    for good in ["1", "0.75", "0.000001"] {
        assert!(parse_fraction(good).is_some(), "{good}");
    }
    for bad in ["0", "1.000001", "0.0000001", "-0.5", ".5", "1e-1", ""] {
        assert!(parse_fraction(bad).is_none(), "{bad}");
    }
}

#[test]
fn peers_to_begin_with_are_a_list_or_json() {
    let base = ("CODIUS_PUBLIC_URI", "https://codius.example.com");
    let peers = |text| {
        read("", &[base, ("CODIUS_BOOTSTRAP_PEERS", text)])
            .map(|config| config.bootstrap_peers.iter().map(PeerUri::to_string).collect::<Vec<_>>())
    };
    for text in ["https://a.example, https://b.example/,", r#"["https://a.example","https://b.example"]"#] {
        assert_eq!(peers(text).unwrap(), ["https://a.example", "https://b.example"], "{text}");
    }
    let message = peers("http://a.example").unwrap_err().to_string();
    assert_eq!(
        message,
        "CODIUS_BOOTSTRAP_PEERS = \"http://a.example\": must be origins such as https://codius.example.com, separated by commas"
    );
    assert_eq!(read("dev = true\npeers.bootstrap = [\"http://localhost:3000\"]", &[]).unwrap().bootstrap_peers.len(), 1);
}

#[test]
fn times_between_checks_of_peers_have_units() {
    let base = ("CODIUS_PUBLIC_URI", "https://codius.example.com");
    let retry = |file, set: &[_]| read(file, set).map(|config| config.peers_rhythm.retry_after);
    assert_eq!(retry("", &[base]).unwrap(), Duration::from_secs(60));
    assert_eq!(retry("dev = true", &[]).unwrap(), Duration::from_millis(250));
    assert_eq!(retry("peers.retry_after = \"3s\"", &[base]).unwrap(), Duration::from_secs(3));
    for bad in ["0", "0.5", "2592001", "-1", "99ms"] {
        let message = retry("", &[base, ("CODIUS_PEERS_RETRY_AFTER", bad)]).unwrap_err().to_string();
        assert!(message.ends_with("must be a duration from 100ms to 30d, such as 60s"), "{bad}: {message}");
    }
}

#[test]
fn sizes_of_pods_are_a_list() {
    let names = |config: Config| config.pod_sizes.iter().map(|size| size.name.clone()).collect::<Vec<_>>();
    let medium = "medium cpus=2 memory=1GiB disk=2GiB price=1.9";
    let file = "dev = true\n[[pod_size]]\nname = \"medium\"\ncpus = 2\nmemory = \"1GiB\"\ndisk = \"2GiB\"\nprice = 1.9\n[[pod_size]]\nname = \"tiny\"\ncpus = 1\nmemory = \"64MiB\"\ndisk = \"64MiB\"\nprice = 0.2";
    assert_eq!(names(read(file, &[]).unwrap()), ["small", "medium", "tiny"]);
    assert_eq!(names(read("dev = true", &[("CODIUS_MACHINES", medium)]).unwrap()), ["small", "medium"]);
    let message = read("dev = true", &[("CODIUS_MACHINES", "medium cpus=2")]).unwrap_err().to_string();
    assert!(message.starts_with("CODIUS_MACHINES = \"medium cpus=2\": must be sizes with name, cpus, memory, disk and price"), "{message}");
    let message = read("dev = true", &[("CODIUS_CPU_OVERCOMMIT", "0.5")]).unwrap_err().to_string();
    assert!(message.starts_with("CODIUS_CPU_OVERCOMMIT = \"0.5\": must be a decimal number from 1 to 1000"), "{message}");
}
