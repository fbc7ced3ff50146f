//! Every key, once: its names, its default, and what it is for. Help, `codiusd check`, the table of docs/operate/configuration.md and
//! `deploy/codiusd.toml` are made of or held against this.

use super::limits::LIMITS;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// In the file.
    pub name: &'static str,
    /// In the environment; the first that is set counts.
    pub environment: &'static [&'static str],
    /// Used if it isn't set; none: see `help`.
    pub default: Option<&'static str>,
    /// What it is for, with its unit.
    pub help: &'static str,
    /// Never shown.
    pub secret: bool,
}

pub(super) const fn key(
    name: &'static str,
    environment: &'static [&'static str],
    default: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key { name, environment, default, help, secret: false }
}

/// All settings but the [`LIMITS`] of the front door, in the order they are explained.
pub const KEYS: &[Key] = &[
    key(
        "public_uri",
        &["CODIUS_PUBLIC_URI"],
        None,
        "URI visitors reach this host at; pods are at <hash>. before its host name. Required, but in dev mode http://localhost:PORT",
    ),
    key("bind_ip", &["CODIUS_BIND_IP"], Some("127.0.0.1"), "address the front door listens on"),
    key("port", &["CODIUS_PORT"], Some("3000"), "port the front door listens on; 0 takes any free one"),
    key(
        "tls_listen",
        &["CODIUS_TLS_LISTEN"],
        Some(""),
        "addresses the front door listens on for TLS, such as 0.0.0.0:443,[::]:443; empty: none",
    ),
    key(
        "tls_certs",
        &["CODIUS_TLS_CERTS"],
        Some(""),
        "certificates for TLS, as CERT.pem:KEY.pem separated by commas; chosen by name, the first for all other names. Read again when they change, and on SIGHUP",
    ),
    key("http_redirect", &["CODIUS_HTTP_REDIRECT"], Some("false"), "true sends plain HTTP to https, but for /.well-known/acme-challenge/"),
    key(
        "hsts_seconds",
        &["CODIUS_HSTS_SECONDS"],
        Some("0"),
        "for how long browsers are told, over https, to use nothing else; 0: they aren't",
    ),
    key("root", &["CODIUS_ROOT"], Some("/var/lib/codius"), "directory everything is kept in: store, images, pods"),
    key(
        "cost_per_month",
        &["CODIUS_COST_PER_MONTH", "COST_PER_MONTH", "CODIUS_XRP_PER_MONTH"],
        Some("10"),
        "price of a small pod for a month, in whole units of the uplink's asset; an exact decimal",
    ),
    key(
        "machines",
        &["CODIUS_MACHINES"],
        Some("small cpus=1 memory=512MiB disk=1GiB price=1"),
        "sizes of pods that are sold, by the name manifests give as machine, separated by commas; price is the multiple of cost_per_month, exact. small is always among them",
    ),
    key("duration_max", &["CODIUS_DURATION_MAX"], Some("31536000"), "longest run time bought at once, in seconds"),
    key("max_memory_fraction", &["CODIUS_MAX_MEMORY_FRACTION"], Some("0.75"), "share of the machine's memory pods may hold"),
    key(
        "max_disk_fraction",
        &["CODIUS_MAX_DISK_FRACTION"],
        Some("0.95"),
        "how full the file system of root may get by pods' disks, which are set aside when they start (embedded)",
    ),
    key(
        "cpu_overcommit",
        &["CODIUS_CPU_OVERCOMMIT"],
        Some("8"),
        "virtual processors pods may hold for each of the machine's: with 8, a pod has an eighth of what it bought when all are busy at once",
    ),
    key(
        "runtime",
        &["CODIUS_RUNTIME"],
        None,
        "what runs pods: embedded, hyperd or noop. Default embedded, unless hyper_socket or hyper_noop is set",
    ),
    key("hyper_socket", &["CODIUS_HYPER_SOCKET"], Some("/var/run/hyper.sock"), "socket of hyperd; setting it chooses the hyperd runtime"),
    key(
        "hyper_bridge",
        &["CODIUS_HYPER_BRIDGE"],
        Some("hyper0"),
        "bridge of hyperd's pods, which gets the network policy; none: it gets none, and pods reach each other and the host",
    ),
    key(
        "hyper_logs",
        &["CODIUS_HYPER_LOGS"],
        Some("/var/run/hyper/Pods"),
        "directory of hyperd with a folder for each pod's log (its PodLogPrefix), which hyperd leaves behind and codiusd removes with the pod",
    ),
    key("hyper_noop", &["CODIUS_HYPER_NOOP"], Some("false"), "true chooses the noop runtime: uploads are accepted and nothing runs"),
    key("pod_subnet", &["CODIUS_POD_SUBNET"], Some("10.200.0.0/16"), "network pods get their addresses from (embedded)"),
    key(
        "image_layouts",
        &["CODIUS_IMAGE_LAYOUTS"],
        Some(""),
        "directories with OCI layouts, separated by colons; their images are named local/NAME@sha256:...",
    ),
    key(
        "insecure_registries",
        &["CODIUS_INSECURE_REGISTRIES"],
        Some(""),
        "registries spoken to without TLS, as host:port separated by commas",
    ),
    key(
        "registries_allow",
        &["CODIUS_REGISTRIES_ALLOW"],
        Some(""),
        "the only registries images come from, as host or host/path separated by commas; empty: all",
    ),
    key(
        "registries_deny",
        &["CODIUS_REGISTRIES_DENY"],
        Some(""),
        "registries no image comes from, as host or host/path separated by commas",
    ),
    key(
        "registries_private",
        &["CODIUS_REGISTRIES_PRIVATE"],
        Some(""),
        "registries (and hosts they lead to) that may have addresses other than the internet's, as host:port separated by commas (embedded)",
    ),
    Key {
        name: "registry_credentials",
        environment: &["CODIUS_REGISTRY_CREDENTIALS"],
        default: None,
        help: "logins for registries as JSON {\"ghcr.io\":\"user:password\"}; whoever pays can run any image they open (embedded). Default none",
        secret: true,
    },
    key(
        "image_disk",
        &["CODIUS_IMAGE_DISK"],
        Some("40GiB"),
        "disk space for images, such as 40GiB; those that weren't used for longest make room (embedded)",
    ),
    key(
        "pod_disk",
        &["CODIUS_POD_DISK"],
        Some("own"),
        "where a pod writes. own: on a disk of the machine's size, set aside when it starts; memory: in half of its memory (embedded)",
    ),
    key(
        "pod_dns",
        &["CODIUS_POD_DNS"],
        Some(""),
        "name servers of pods, as IPv4 addresses separated by commas; empty: the host's own, but those pods can't reach (embedded)",
    ),
    key(
        "egress_private",
        &["CODIUS_EGRESS_PRIVATE"],
        Some("reject"),
        "whether pods reach private networks (10/8, 172.16/12, 192.168/16, 100.64/10): reject or allow",
    ),
    key(
        "block_ports",
        &["CODIUS_BLOCK_PORTS"],
        Some(""),
        "ports that are closed besides those that always are, such as tcp/445, udp/6881-6889; in: or out: before one closes it one way only; separated by commas",
    ),
    key(
        "pod_host_ports",
        &["CODIUS_POD_HOST_PORTS"],
        Some(""),
        "ports of this machine that pods may reach, such as tcp/7768, separated by commas",
    ),
    key("pod_connections", &["CODIUS_POD_CONNECTIONS"], Some("1024"), "connections a pod may have at once, each way"),
    key(
        "pod_connections_per_second",
        &["CODIUS_POD_CONNECTIONS_PER_SECOND"],
        Some("100"),
        "connections a pod may open, or be sent, in a second",
    ),
    key(
        "pod_bandwidth",
        &["CODIUS_POD_BANDWIDTH"],
        Some("200"),
        "what a pod may send, and may be sent, in megabits per second (1 to 30000; 0: no bound). What is beyond waits (embedded) or is dropped (hyperd)",
    ),
    key("pod_read_only", &["CODIUS_POD_READ_ONLY"], Some("false"), "true: pods write to /dev/shm and to nothing else (embedded)"),
    key(
        "ilp",
        &["CODIUS_ILP"],
        None,
        "how the host is paid: uplink (a connector such as moneyd) or embedded (a connector of its own that settles nothing). Default uplink; in dev mode embedded",
    ),
    Key {
        name: "ilp_credentials",
        environment: &["ILP_CREDENTIALS"],
        default: None,
        help: "uplink as JSON {\"server\":\"btp+wss://:secret@host:port\"}. Default the moneyd at localhost:7768, with a secret of our own",
        secret: true,
    },
    key("ilp_listen", &["CODIUS_ILP_LISTEN"], Some("127.0.0.1:7768,[::1]:7768"), "addresses the embedded connector listens on"),
    key(
        "trusted_proxies",
        &["CODIUS_TRUSTED_PROXIES"],
        Some(""),
        "networks of proxies in front whose word on clients is believed (X-Forwarded-For, PROXY protocol), separated by commas",
    ),
    key(
        "proxy_protocol",
        &["CODIUS_PROXY_PROTOCOL"],
        Some(""),
        "those of the addresses listened on where connections begin with a PROXY protocol header (v1 or v2), separated by commas; only trusted_proxies may connect there",
    ),
    key(
        "access_log",
        &["CODIUS_ACCESS_LOG"],
        None,
        "file a line per request is appended to, without query strings and tokens, or stdout; opened again on SIGHUP. Default none",
    ),
    key("access_log_format", &["CODIUS_ACCESS_LOG_FORMAT"], Some("text"), "text, or json: one object per line"),
    key("access_log_sample", &["CODIUS_ACCESS_LOG_SAMPLE"], Some("1"), "one request in so many is logged"),
    key(
        "front_door_threads",
        &["CODIUS_FRONT_DOOR_THREADS"],
        Some("0"),
        "threads for plain HTTP, and as many for TLS; 0: half of the machine's processors, but at least 2. The rest of the machine is the pods'",
    ),
    key("control_threads", &["CODIUS_CONTROL_THREADS"], Some("2"), "threads for all else: the API, payments, looking after pods"),
    key(
        "bootstrap_peers",
        &["CODIUS_BOOTSTRAP_PEERS"],
        Some(""),
        "other hosts to begin with, as https://codius.example.com separated by commas; they are asked whom they know, and told of this one",
    ),
    key("peers_max", &["CODIUS_PEERS_MAX"], Some("1000"), "other hosts that are known, at most; 0: none, and nobody is asked"),
    key(
        "peers_ask_every",
        &["CODIUS_PEERS_ASK_EVERY"],
        None,
        "seconds from one round of questions to the next, and up to as many more. Default 5; in dev mode 0.5",
    ),
    key(
        "peers_look_every",
        &["CODIUS_PEERS_LOOK_EVERY"],
        None,
        "seconds from one look at a known host to the next, or up to a quarter less. Default 86400; in dev mode 60",
    ),
    key(
        "peers_retry_after",
        &["CODIUS_PEERS_RETRY_AFTER"],
        None,
        "seconds from a first failed look at a known host to the next, doubled with each; the fourth is the last. Default 60; in dev mode 0.25",
    ),
    key(
        "additional_host_info",
        &["CODIUS_ADDITIONAL_HOST_INFO"],
        Some("true"),
        "false leaves the number of pods and the known hosts out of /info",
    ),
    key(
        "admin_api",
        &["CODIUS_ADMIN_API"],
        Some("false"),
        "true opens the operator's listener on 127.0.0.1: codiusd status and the like, and /metrics for Prometheus",
    ),
    key("admin_port", &["CODIUS_ADMIN_PORT"], Some("3001"), "port of the operator's listener; 0 takes any free one"),
    key("public_metrics", &["CODIUS_PUBLIC_METRICS"], Some("false"), "true shows /metrics to everybody, at the host's own name"),
    key(
        "self_test",
        &["CODIUS_SELF_TEST"],
        None,
        "on: no uploads are taken until the host has paid for a pod of its own at public_uri, and visited it. Default on, but off in dev mode and at localhost",
    ),
    key(
        "self_test_retries",
        &["CODIUS_SELF_TEST_RETRIES"],
        Some("5"),
        "how often a failed self-test is repeated at first; then every 5 minutes",
    ),
    key("self_test_interval", &["CODIUS_SELF_TEST_INTERVAL"], Some("5"), "seconds between these repetitions"),
    Key {
        name: "self_test_credentials",
        environment: &["CODIUS_SELF_TEST_CREDENTIALS"],
        default: None,
        help: "account the self-test pays from, as in ilp_credentials, but another one. Default one that the uplink's connector gives whoever asks, as moneyd does",
        secret: true,
    },
    key(
        "self_test_image",
        &["CODIUS_SELF_TEST_IMAGE"],
        None,
        "image the self-test runs. Default codiusd's own; hyperd needs one in a registry (that of codiusd image demo)",
    ),
    key(
        "stop_pods_at_exit",
        &["CODIUS_STOP_PODS_AT_EXIT"],
        Some("false"),
        "true stops all pods when codiusd ends; otherwise they run on and the next codiusd adopts them",
    ),
    key(
        "log",
        &["CODIUS_LOG", "RUST_LOG"],
        Some("warn,codiusd=info,codiusd_control=info,codiusd_ilp=info,codiusd_proxy=info,codiusd_runtime=info"),
        "what is logged to standard error: a level (error, warn, info, debug, trace), or module=level separated by commas",
    ),
    key("log_format", &["CODIUS_LOG_FORMAT"], Some("text"), "text, or json for machines that read logs: one object per line"),
    key("dev", &["CODIUS_DEV"], Some("false"), "development: defaults that need nothing else installed or running"),
];

/// Values of the keys that have no default, as the settings file that is shipped shows them.
const EXAMPLES: &[(&str, &str)] = &[
    ("public_uri", "https://codius.example.com"),
    ("runtime", "embedded"),
    ("registry_credentials", r#"{"ghcr.io":"user:password"}"#),
    ("ilp", "uplink"),
    ("ilp_credentials", r#"{"server":"btp+ws://:secret@localhost:7768"}"#),
    ("access_log", "/var/log/codiusd/access.log"),
    ("peers_ask_every", "5"),
    ("peers_look_every", "86400"),
    ("peers_retry_after", "60"),
    ("self_test", "on"),
    ("self_test_credentials", r#"{"server":"btp+ws://:another@localhost:7768"}"#),
    ("self_test_image", "registry.example/demo@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
];

impl Key {
    /// What it may be set to, of a key without default.
    pub fn example(&self) -> Option<&'static str> {
        EXAMPLES.iter().find(|(name, _)| *name == self.name).map(|(_, value)| *value)
    }
}

/// All settings.
pub fn all() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain(LIMITS.iter().map(|limit| &limit.key))
}

/// The table as `--help` shows it.
pub fn help() -> String {
    let describe = |key: &Key| {
        let default = key.default.filter(|default| !default.is_empty()).map(|default| format!(" [default: {default}]"));
        format!("  {} ({})\n      {}{}\n", key.name, key.environment.join(", "), key.help, default.unwrap_or_default())
    };
    let keys: String = all().map(describe).collect();
    format!("Settings, in the file and (in brackets) in the environment, which wins:\n{keys}")
}
