use std::{io::Write, time::Duration};

use super::*;

fn read(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file.as_bytes()).unwrap();
    Config::read(Some(path.path()), environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let config = read("port = 4000\ncost_per_month = 2.5\ndev = true", &[("CODIUS_PORT", "5000")]).unwrap();
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
    let config = read("pod_disk = \"own\"\npod_dns = [\"9.9.9.9\"]\nregistries_allow = [\"ghcr.io/us\"]", &[dev, logins]).unwrap();
    assert_eq!((config.pod_disk, config.image_disk), (ScratchLimit::Disk, 40 << 30));
    assert_eq!(
        (config.network.nameservers.clone(), config.registries.allow.clone()),
        (vec![Ipv4Addr::new(9, 9, 9, 9)], vec!["ghcr.io/us".to_owned()])
    );
    for (set, bridge) in [("hyper_bridge = \"none\"", ""), ("hyper_bridge = \"\"", ""), ("", "hyper0")] {
        assert_eq!(read(set, &[dev]).unwrap().hyper_bridge, bridge, "{set}");
    }
    for (set, bytes) in
        [("", 25_000_000), ("pod_bandwidth = 8", 1_000_000), ("pod_bandwidth = 0", 0), ("pod_bandwidth = 30000", 3_750_000_000)]
    {
        assert_eq!(read(set, &[dev]).unwrap().network.bytes_per_second, bytes, "{set}");
    }
    let login = &config.registries.credentials[0];
    assert_eq!((&*login.registry, &*login.username, &*login.password), ("index.docker.io", "me", "s3cret:with:colons"));
    assert!(!format!("{config:?}").contains("s3cret"));
    assert_eq!(read("", &[dev, ("CODIUS_POD_DISK", "memory")]).unwrap().pod_disk, ScratchLimit::Memory);
}

const DEV: (&str, &str) = ("CODIUS_DEV", "true");
/// What is set, and what is said of it.
const WRONG: &[(&[(&str, &str)], &str)] = &[
    (&[("CODIUS_PORT", "http"), DEV], "CODIUS_PORT = \"http\": must be a port number from 0 (any free one) to 65535"),
    (
        &[("CODIUS_PORT", "3000")],
        "CODIUS_PUBLIC_URI isn't set: set it to the URI visitors reach this host at, such as https://codius.example.com",
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
        "CODIUS_TLS_CERTS isn't set: TLS needs a certificate, as CERT.pem:KEY.pem (codiusd certs dev makes one to try with)",
    ),
    (
        &[DEV, ("CODIUS_HTTP_REDIRECT", "true")],
        "CODIUS_TLS_LISTEN isn't set: certificates and redirects to https need an address such as 0.0.0.0:443",
    ),
    (
        &[DEV, ("CODIUS_TLS_CERTS", "/a.pem:/a.key,b.pem:b.key")],
        "CODIUS_TLS_CERTS = \"/a.pem:/a.key,b.pem:b.key\": must be CERT.pem:KEY.pem, both absolute paths, separated by commas",
    ),
    (
        &[DEV, ("CODIUS_PROXY_PROTOCOL", "127.0.0.1:3001"), ("CODIUS_TRUSTED_PROXIES", "10.0.0.1/32")],
        "CODIUS_PROXY_PROTOCOL = \"127.0.0.1:3001\": must be addresses the front door listens on (bind_ip:port, or in tls_listen), separated by commas",
    ),
    (
        &[DEV, ("CODIUS_PROXY_PROTOCOL", "127.0.0.1:3000")],
        "CODIUS_TRUSTED_PROXIES isn't set: proxy_protocol needs the networks of the proxies that may speak it",
    ),
    (&[DEV, ("CODIUS_EDGE_CONNECTIONS", "0")], "CODIUS_EDGE_CONNECTIONS = \"0\": must be a number from 1 to 10000000"),
    (&[DEV, ("CODIUS_TLS_LISTEN", "443")], "CODIUS_TLS_LISTEN = \"443\": must be addresses such as 0.0.0.0:443,[::]:443"),
    (&[DEV, ("CODIUS_HSTS_SECONDS", "-1")], "CODIUS_HSTS_SECONDS = \"-1\": must be a number of seconds from 0 to 4294967295"),
    (
        &[DEV, ("CODIUS_MAX_MEMORY_FRACTION", "1.5")],
        "CODIUS_MAX_MEMORY_FRACTION = \"1.5\": must be a decimal number above 0 and up to 1, such as 0.75",
    ),
    (&[DEV, ("CODIUS_RUNTIME", "docker")], "CODIUS_RUNTIME = \"docker\": must be embedded, hyperd or noop"),
    (
        &[DEV, ("ILP_CREDENTIALS", "btp+ws://:s3cret@x")],
        "ILP_CREDENTIALS = \"(hidden)\": must be JSON such as {\"server\":\"btp+ws://:secret@localhost:7768\"}, with a btp+ws:// or btp+wss:// URL",
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
        ("CODIUS_POD_BANDWIDTH", "30001", "\"30001\": must be megabits per second from 1 to 30000, or 0 for no bound"),
        ("CODIUS_REGISTRIES_DENY", "https://ghcr.io", "\"https://ghcr.io\": must be host, host:port or host/path, separated by commas"),
        ("CODIUS_REGISTRY_CREDENTIALS", "{\"ghcr.io\":\"s3cret\"}", "\"(hidden)\": must be JSON such as {\"ghcr.io\":\"user:password\"}"),
    ];
    for (name, value, expected) in table {
        let message = read("", &[("CODIUS_DEV", "true"), (name, value)]).unwrap_err().to_string();
        assert_eq!(message, format!("{name} = {expected}"));
    }
}

#[test]
fn tls_has_addresses_and_certificates() {
    let file = "dev = true\ntls_listen = [\"0.0.0.0:443\", \"[::]:443\"]\ntls_certs = [\"/a.pem:/a.key\", \"/b.pem:/b.key\"]\nhttp_redirect = true\nhsts_seconds = 60";
    let pair = |chain: &str, key: &str| CertificateFiles { chain: chain.into(), key: key.into() };
    let expected = TlsChoice {
        listen: vec!["0.0.0.0:443".parse().unwrap(), "[::]:443".parse().unwrap()],
        certificates: vec![pair("/a.pem", "/a.key"), pair("/b.pem", "/b.key")],
        redirect: true,
        hsts_seconds: 60,
    };
    assert_eq!(read(file, &[]).unwrap().tls, Some(expected));
    assert_eq!(read("dev = true\nhsts_seconds = 60", &[]).unwrap().tls, None);
}

#[test]
fn proxies_in_front_speak_where_they_are_told_to() {
    let file = "dev = true\ntls_listen = \"[::]:443\"\ntls_certs = \"/a.pem:/a.key\"\ntrusted_proxies = \"10.0.0.0/8\"\nproxy_protocol = [\"127.0.0.1:3000\", \"[::]:443\"]";
    let expected: Vec<SocketAddr> = vec!["127.0.0.1:3000".parse().unwrap(), "[::]:443".parse().unwrap()];
    assert_eq!(read(file, &[]).unwrap().proxy_protocol, expected);
}

#[test]
fn an_unknown_key_in_the_file_names_the_nearest() {
    let message = read("cost_per_mont = 3", &[]).unwrap_err().to_string();
    assert!(message.ends_with("unknown key \"cost_per_mont\"; did you mean \"cost_per_month\"?"), "{message}");
    let message = read("CODIUS_PORT = 3", &[]).unwrap_err().to_string();
    assert!(message.ends_with("unknown key \"CODIUS_PORT\"; did you mean \"port\"?"), "{message}");
    for unlike in ["foo = 1", "port = [1]"] {
        let message = read(unlike, &[]).unwrap_err().to_string();
        assert!(!message.contains("did you mean"), "{message}");
    }
    let missing = Config::read(Some(Path::new("/no/such/file.toml")), []).unwrap_err().to_string();
    assert_eq!(missing, "config file /no/such/file.toml: doesn't exist");
}

#[test]
fn the_shown_settings_are_a_valid_file_without_secrets() {
    let environment = [("CODIUS_DEV", "true"), ("ILP_CREDENTIALS", r#"{"server":"btp+ws://:s3cret@x"}"#)];
    let owned = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let empty = tempfile::NamedTempFile::new().unwrap();
    let settings = Settings::read(Some(empty.path()), owned).unwrap();
    let shown = settings.show(&Config::from_settings(&settings).unwrap());
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("dev = \"true\" # from CODIUS_DEV"), "{shown}");
    for chosen in ["public_uri = \"http://localhost:3000\"", "runtime = \"embedded\"", "ilp = \"uplink\""] {
        assert!(shown.contains(chosen), "{chosen} in {shown}");
    }
    assert!(read(&shown, &[]).is_ok(), "{shown}");
}

#[test]
fn numbers_in_the_file_keep_their_digits() {
    let config = read("dev = true\ncost_per_month = 0.123456789012345678", &[]).unwrap();
    assert_eq!(config.cost_per_month.to_string(), "0.123456789012345678");
    let message = read("dev = true\ncost_per_month = 1e-7", &[]).unwrap_err().to_string();
    assert!(message.contains("= \"1e-7\": must be a decimal number"), "{message}");
}

#[test]
fn a_file_that_is_no_toml_is_told_by_its_line_and_not_shown() {
    let message = read("dev = true\nilp_credentials = {\"server\":\"btp+ws://:s3cret@x\"}", &[]).unwrap_err().to_string();
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
    assert_eq!(read("dev = true\nbootstrap_peers = [\"http://localhost:3000\"]", &[]).unwrap().bootstrap_peers.len(), 1);
}

#[test]
fn times_between_looks_at_peers_are_whole_seconds() {
    let base = ("CODIUS_PUBLIC_URI", "https://codius.example.com");
    let retry = |file, set: &[_]| read(file, set).map(|config| config.peers_rhythm.retry_after);
    assert_eq!(retry("", &[base]).unwrap(), Duration::from_secs(60));
    assert_eq!(retry("dev = true", &[]).unwrap(), Duration::from_millis(250));
    assert_eq!(retry("peers_retry_after = 3", &[base]).unwrap(), Duration::from_secs(3));
    for bad in ["0", "0.5", "2592001", "-1"] {
        let message = retry("", &[base, ("CODIUS_PEERS_RETRY_AFTER", bad)]).unwrap_err().to_string();
        assert!(message.ends_with("must be a number of seconds from 1 to 2592000"), "{bad}: {message}");
    }
}

#[test]
fn sizes_of_pods_are_a_list() {
    let names = |config: Config| config.machines.iter().map(|size| size.name.clone()).collect::<Vec<_>>();
    let medium = "medium cpus=2 memory=1GiB disk=2GiB price=1.9";
    let file = format!("dev = true\nmachines = [\"{medium}\", \"tiny cpus=1 memory=64MiB disk=64MiB price=0.2\"]");
    assert_eq!(names(read(&file, &[]).unwrap()), ["small", "medium", "tiny"]);
    assert_eq!(names(read("dev = true", &[("CODIUS_MACHINES", medium)]).unwrap()), ["small", "medium"]);
    let message = read("dev = true", &[("CODIUS_MACHINES", "medium cpus=2")]).unwrap_err().to_string();
    assert!(message.starts_with("CODIUS_MACHINES = \"medium cpus=2\": must be sizes such as medium cpus=2 memory=1GiB"), "{message}");
    let message = read("dev = true", &[("CODIUS_CPU_OVERCOMMIT", "0.5")]).unwrap_err().to_string();
    assert!(message.starts_with("CODIUS_CPU_OVERCOMMIT = \"0.5\": must be a decimal number from 1 to 1000"), "{message}");
}
