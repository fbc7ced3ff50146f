//! Every setting, once: its key in the file, its variables in the environment, its default, and what it is for. `--help`, `codiusd check`,
//! `deploy/codiusd.toml` and the tables of docs/operate/configuration.md and docs/operate/limits.md are generated from this.

use super::{key::Key, kind::Kind, limits::LIMITS};

/// Tables of the file in their order, and what each is about. Keys without a table come first.
pub const TABLES: &[(&str, &str)] = &[
    ("edge", "The edge: what visitors connect to"),
    ("tls", "TLS at the edge"),
    ("access_log", "One line per request"),
    ("limits", "Limits of the edge"),
    ("pricing", "What run time costs"),
    ("uplink", "How the host is paid"),
    ("runtime", "What runs pods"),
    ("pods", "What pods may do"),
    ("capacity", "How much of this machine pods may hold"),
    ("images", "Images of pods, and the registries they come from"),
    ("hyperd", "The hyperd runtime"),
    ("peers", "Other hosts"),
    ("api", "The control plane's HTTP"),
    ("admin", "The operator's listener, on this machine only"),
    ("self_test", "The host pays for a pod of its own before it takes uploads"),
    ("log", "The log, on standard error"),
];

const fn key(path: &'static str, environment: &'static [&'static str], kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { path, environment, kind, default: Some(default), example: None, help, secret: false }
}

/// A key whose default follows from other settings.
const fn open(path: &'static str, environment: &'static [&'static str], kind: Kind, example: &'static str, help: &'static str) -> Key {
    Key { path, environment, kind, default: None, example: Some(example), help, secret: false }
}

/// A secret key whose default follows from other settings.
const fn secret(path: &'static str, environment: &'static [&'static str], kind: Kind, example: &'static str, help: &'static str) -> Key {
    Key { path, environment, kind, default: None, example: Some(example), help, secret: true }
}

/// All settings but the [`LIMITS`] of the edge.
pub const KEYS: &[Key] = &[
    open(
        "public_uri",
        &["CODIUS_PUBLIC_URI"],
        Kind::Text,
        "https://codius.example.com",
        "URI of this host; each pod is reached at <hash>. before its host name. Required, except in dev mode, where it is http://localhost:PORT",
    ),
    key("root", &["CODIUS_ROOT"], Kind::Text, "/var/lib/codius", "directory of the database, the images and the pods"),
    key(
        "dev",
        &["CODIUS_DEV"],
        Kind::Bool,
        "false",
        "development mode: runs on this machine alone, with a connector of its own and no self-test",
    ),
    key("edge.bind_ip", &["CODIUS_BIND_IP"], Kind::Text, "127.0.0.1", "address the edge listens on"),
    key("edge.port", &["CODIUS_PORT"], Kind::Number, "3000", "port the edge listens on; 0 takes any free port"),
    key(
        "edge.trusted_proxies",
        &["CODIUS_TRUSTED_PROXIES"],
        Kind::List,
        "",
        "networks of reverse proxies in front of this host; their X-Forwarded-For and PROXY protocol headers are believed",
    ),
    key(
        "edge.proxy_protocol",
        &["CODIUS_PROXY_PROTOCOL"],
        Kind::List,
        "",
        "listening addresses where every connection begins with a PROXY protocol header (v1 or v2); only trusted_proxies may connect there",
    ),
    key(
        "edge.threads",
        &["CODIUS_EDGE_THREADS", "CODIUS_FRONT_DOOR_THREADS"],
        Kind::Number,
        "0",
        "threads for plain HTTP, and as many for TLS; 0: half of the machine's processors, at least 2",
    ),
    key("tls.listen", &["CODIUS_TLS_LISTEN"], Kind::List, "", "addresses the edge listens on for TLS, such as 0.0.0.0:443 and [::]:443"),
    key(
        "tls.certificates",
        &["CODIUS_TLS_CERTS"],
        Kind::Certificates,
        "",
        "certificate chains and their private keys, as absolute paths; SNI decides, the first is the default. Read again when a file changes, and on SIGHUP",
    ),
    key(
        "tls.redirect_http",
        &["CODIUS_HTTP_REDIRECT"],
        Kind::Bool,
        "false",
        "true redirects plain HTTP to https, except for /.well-known/acme-challenge/",
    ),
    key(
        "tls.hsts",
        &["CODIUS_HSTS_SECONDS"],
        Kind::Duration,
        "0s",
        "max-age of the Strict-Transport-Security header that is added over https; 0s adds none",
    ),
    open(
        "access_log.file",
        &["CODIUS_ACCESS_LOG"],
        Kind::Text,
        "/var/log/codiusd/access.log",
        "file that gets a line per request, without query strings and tokens, or stdout; opened again on SIGHUP. Default: no access log",
    ),
    key("access_log.format", &["CODIUS_ACCESS_LOG_FORMAT"], Kind::Text, "text", "text, or json for one object per line"),
    key("access_log.sample", &["CODIUS_ACCESS_LOG_SAMPLE"], Kind::Number, "1", "one request in this many is logged"),
    key(
        "pricing.cost_per_month",
        &["CODIUS_COST_PER_MONTH", "COST_PER_MONTH", "CODIUS_XRP_PER_MONTH"],
        Kind::Decimal,
        "10",
        "price of a small pod for a month, in whole units of the uplink's asset; an exact decimal",
    ),
    key("pricing.duration_max", &["CODIUS_DURATION_MAX"], Kind::Duration, "365d", "longest run time bought at once"),
    open(
        "uplink.type",
        &["CODIUS_ILP"],
        Kind::Text,
        "btp",
        "btp: a connector such as moneyd; embedded: a connector of this host's own that settles nothing. Default btp; embedded in dev mode",
    ),
    secret(
        "uplink.url",
        &["ILP_CREDENTIALS"],
        Kind::Text,
        "btp+wss://:secret@connector.example:7768",
        "BTP account at the connector; in the environment JSON {\"server\":\"btp+wss://:secret@host:port\"}. Default: the moneyd at localhost:7768",
    ),
    key("uplink.listen", &["CODIUS_ILP_LISTEN"], Kind::List, "127.0.0.1:7768,[::1]:7768", "addresses the embedded connector listens on"),
    open(
        "runtime.type",
        &["CODIUS_RUNTIME"],
        Kind::Text,
        "embedded",
        "embedded: containers; hyperd: virtual machines; noop: uploads are accepted and nothing runs. Default embedded, unless hyperd.socket is set",
    ),
    key(
        "runtime.stop_pods_at_exit",
        &["CODIUS_STOP_PODS_AT_EXIT"],
        Kind::Bool,
        "false",
        "true stops all pods when codiusd ends; otherwise they run on, and the next codiusd adopts them",
    ),
    key("pods.subnet", &["CODIUS_POD_SUBNET"], Kind::Text, "10.200.0.0/16", "private IPv4 network of the pods' addresses (embedded)"),
    key(
        "pods.isolation",
        &["CODIUS_POD_ISOLATION"],
        Kind::Text,
        "auto",
        "vm: each pod is a virtual machine, and codiusd runs no pods where that isn't possible; container: pods share the host's kernel; auto: vm where a virtual machine boots under KVM when codiusd starts, otherwise container (embedded)",
    ),
    key(
        "pods.guest_kernel",
        &["CODIUS_GUEST_KERNEL"],
        Kind::Text,
        "/",
        "directory with boot/ and lib/modules/ of the virtual machines' kernel (embedded)",
    ),
    key(
        "pods.vm_accelerator",
        &["CODIUS_VM_ACCELERATOR"],
        Kind::Text,
        "kvm",
        "kvm; or tcg, for tests only: it emulates a virtual machine, which isolates nothing (embedded)",
    ),
    key(
        "pods.disk",
        &["CODIUS_POD_DISK"],
        Kind::Text,
        "own",
        "own: a pod writes to a disk of the size it bought, reserved when it starts; memory: to half of its memory (embedded)",
    ),
    key("pods.read_only", &["CODIUS_POD_READ_ONLY"], Kind::Bool, "false", "true: pods can write to /dev/shm only (embedded)"),
    key(
        "pods.dns",
        &["CODIUS_POD_DNS"],
        Kind::List,
        "",
        "name servers of pods, as IPv4 addresses; empty: those of the host that pods can reach (embedded)",
    ),
    key(
        "pods.egress_private",
        &["CODIUS_EGRESS_PRIVATE"],
        Kind::Text,
        "reject",
        "whether pods may connect to private networks (10/8, 172.16/12, 192.168/16, 100.64/10): reject or allow",
    ),
    key(
        "pods.blocked_ports",
        &["CODIUS_BLOCK_PORTS"],
        Kind::List,
        "",
        "ports that are closed besides the built-in ones, such as tcp/445 or udp/6881-6889; in: or out: before one closes that direction only",
    ),
    key("pods.host_ports", &["CODIUS_POD_HOST_PORTS"], Kind::List, "", "ports of this machine that pods may connect to, such as tcp/7768"),
    key("pods.connections", &["CODIUS_POD_CONNECTIONS"], Kind::Number, "1024", "connections of a pod, per direction, at most"),
    key(
        "pods.connections_per_second",
        &["CODIUS_POD_CONNECTIONS_PER_SECOND"],
        Kind::Number,
        "100",
        "new connections of a pod per second, per direction, at most",
    ),
    key(
        "pods.bandwidth",
        &["CODIUS_POD_BANDWIDTH"],
        Kind::Rate,
        "200Mbit/s",
        "bandwidth of a pod, per direction, or unlimited; excess is queued (embedded) or dropped (hyperd)",
    ),
    key(
        "capacity.memory_fraction",
        &["CODIUS_MAX_MEMORY_FRACTION"],
        Kind::Decimal,
        "0.75",
        "share of the machine's memory that pods may hold",
    ),
    key(
        "capacity.disk_fraction",
        &["CODIUS_MAX_DISK_FRACTION"],
        Kind::Decimal,
        "0.95",
        "how full the file system of root may get; pods' disks are reserved when they start (embedded)",
    ),
    key(
        "capacity.cpu_overcommit",
        &["CODIUS_CPU_OVERCOMMIT"],
        Kind::Decimal,
        "8",
        "virtual processors pods may hold per processor of the machine; with 8, a pod gets an eighth of what it bought when all pods are busy",
    ),
    key(
        "images.layouts",
        &["CODIUS_IMAGE_LAYOUTS"],
        Kind::Paths,
        "",
        "directories with OCI image layouts; manifests name their images local/NAME@sha256:...",
    ),
    key(
        "images.disk",
        &["CODIUS_IMAGE_DISK"],
        Kind::Size,
        "40GiB",
        "disk space of images; the least recently used are removed first (embedded)",
    ),
    key(
        "images.allow",
        &["CODIUS_REGISTRIES_ALLOW"],
        Kind::List,
        "",
        "the only registries images are pulled from, as host or host/path; empty: every registry",
    ),
    key("images.deny", &["CODIUS_REGISTRIES_DENY"], Kind::List, "", "registries no image is pulled from, as host or host/path"),
    key("images.insecure", &["CODIUS_INSECURE_REGISTRIES"], Kind::List, "", "registries that are asked without TLS, as host:port"),
    key(
        "images.private",
        &["CODIUS_REGISTRIES_PRIVATE"],
        Kind::List,
        "",
        "registries, and hosts they redirect to, that may have private addresses, as host:port (embedded)",
    ),
    secret(
        "images.credentials",
        &["CODIUS_REGISTRY_CREDENTIALS"],
        Kind::Logins,
        r#"{"ghcr.io":"user:password"}"#,
        "logins at registries; anyone who pays can run any image they give access to (embedded)",
    ),
    key(
        "hyperd.socket",
        &["CODIUS_HYPER_SOCKET"],
        Kind::Text,
        "/var/run/hyper.sock",
        "socket of hyperd; setting it chooses the hyperd runtime",
    ),
    key(
        "hyperd.bridge",
        &["CODIUS_HYPER_BRIDGE"],
        Kind::Text,
        "hyper0",
        "bridge of hyperd's pods, which gets the network policy; none: no policy, and pods reach each other and the host",
    ),
    key(
        "hyperd.logs",
        &["CODIUS_HYPER_LOGS"],
        Kind::Text,
        "/var/run/hyper/Pods",
        "hyperd's directory of pod logs (its PodLogPrefix); codiusd removes a pod's folder with the pod",
    ),
    key("hyperd.noop", &["CODIUS_HYPER_NOOP"], Kind::Bool, "false", "true chooses the noop runtime, as in the Node codiusd"),
    key(
        "peers.bootstrap",
        &["CODIUS_BOOTSTRAP_PEERS"],
        Kind::List,
        "",
        "first known hosts, such as https://codius.example.com; they are asked for more, and learn of this one",
    ),
    key("peers.max", &["CODIUS_PEERS_MAX"], Kind::Number, "1000", "other hosts that are known, at most; 0: none is asked"),
    open(
        "peers.ask_every",
        &["CODIUS_PEERS_ASK_EVERY"],
        Kind::Duration,
        "5s",
        "time between two rounds of questions, and up to as much again. Default 5s; 500ms in dev mode",
    ),
    open(
        "peers.check_every",
        &["CODIUS_PEERS_LOOK_EVERY"],
        Kind::Duration,
        "1d",
        "time between two checks of a known host, or up to a quarter less. Default 1d; 60s in dev mode",
    ),
    open(
        "peers.retry_after",
        &["CODIUS_PEERS_RETRY_AFTER"],
        Kind::Duration,
        "60s",
        "time after the first failed check of a known host, doubled with each; the fourth removes it. Default 60s; 250ms in dev mode",
    ),
    key(
        "api.additional_host_info",
        &["CODIUS_ADDITIONAL_HOST_INFO"],
        Kind::Bool,
        "true",
        "false leaves the number of pods and the known hosts out of /info",
    ),
    key("api.public_metrics", &["CODIUS_PUBLIC_METRICS"], Kind::Bool, "false", "true serves /metrics to everyone, at the host's own name"),
    key("api.threads", &["CODIUS_CONTROL_THREADS"], Kind::Number, "2", "threads of the control plane: API, payments, pods"),
    key(
        "admin.enabled",
        &["CODIUS_ADMIN_API"],
        Kind::Bool,
        "false",
        "true opens the operator's listener on 127.0.0.1: codiusd admin, the operator's page, /metrics for Prometheus",
    ),
    key("admin.port", &["CODIUS_ADMIN_PORT"], Kind::Number, "3001", "port of the operator's listener; 0 takes any free port"),
    open(
        "self_test.enabled",
        &["CODIUS_SELF_TEST"],
        Kind::Bool,
        "true",
        "true: the host refuses uploads until it has paid for a pod at public_uri and visited it. Default true; false in dev mode and at localhost",
    ),
    key(
        "self_test.retries",
        &["CODIUS_SELF_TEST_RETRIES"],
        Kind::Number,
        "5",
        "retries of a failed self-test after interval; later ones come every 5 minutes",
    ),
    key("self_test.interval", &["CODIUS_SELF_TEST_INTERVAL"], Kind::Duration, "5s", "time between these retries"),
    secret(
        "self_test.url",
        &["CODIUS_SELF_TEST_CREDENTIALS"],
        Kind::Text,
        "btp+wss://:another@connector.example:7768",
        "BTP account the self-test pays from, other than uplink.url. Default: one that the uplink's connector gives to anyone, as moneyd does",
    ),
    open(
        "self_test.image",
        &["CODIUS_SELF_TEST_IMAGE"],
        Kind::Text,
        "registry.example/demo@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "image the self-test runs. Default codiusd's own; hyperd needs one in a registry (codiusd image demo makes it)",
    ),
    key(
        "log.filter",
        &["CODIUS_LOG", "RUST_LOG"],
        Kind::Text,
        "warn,codiusd=info,codiusd_control=info,codiusd_ilp=info,codiusd_proxy=info,codiusd_runtime=info",
        "a level (error, warn, info, debug, trace), or MODULE=LEVEL separated by commas; the most specific module counts",
    ),
    key("log.format", &["CODIUS_LOG_FORMAT"], Kind::Text, "text", "text, or json for one object per line"),
    key(
        "pod_size",
        &["CODIUS_MACHINES"],
        Kind::PodSizes,
        "small cpus=1 memory=512MiB disk=1GiB price=1",
        "sizes of pods this host sells, by the name that manifests give as machine; price is the factor on cost_per_month, exact. small always exists",
    ),
];

/// All settings, in the order of the file.
pub fn all() -> impl Iterator<Item = &'static Key> {
    let at = KEYS.iter().position(|key| key.table() == "pricing").unwrap_or(KEYS.len());
    let (before, after) = KEYS.split_at(at);
    before.iter().chain(LIMITS.iter().map(|limit| &limit.key)).chain(after)
}

/// The table as `--help` shows it.
pub fn help() -> String {
    let describe = |key: &Key| {
        let default = key.default.filter(|default| !default.is_empty()).map(|default| format!(" [default: {}]", key.kind.toml_of(default)));
        format!("  {} ({})\n      {}{}\n", key.path, key.environment.join(", "), key.help, default.unwrap_or_default())
    };
    let keys: String = all().map(describe).collect();
    format!("Settings, by their keys in the file and (in brackets) their variables in the environment, which win:\n{keys}")
}

/// The settings file with every key at its default, commented out: `codiusd check --print-default`, and deploy/codiusd.toml.
pub fn default_file() -> String {
    let mut file = "# Settings of codiusd, all at their defaults. Uncomment what you change, then run codiusd check.\n\
                    # Each may also be set in the environment, by the variable in brackets, which wins over this file.\n"
        .to_owned();
    let mut table = "";
    for key in all() {
        if key.table() != table && key.kind != Kind::PodSizes {
            table = key.table();
            let about = TABLES.iter().find(|(name, _)| *name == table).map_or("", |(_, about)| *about);
            file += &format!("\n# {about}.\n[{table}]\n");
        }
        file += &format!("\n# {} ({})\n", key.help, key.environment.join(", "));
        let value = key.default.or(key.example).unwrap_or_default();
        file += &match key.kind {
            Kind::PodSizes => format!("# [[pod_size]]\n# {}\n", super::kind::fields(value, "\n# ")),
            Kind::Logins => format!("# {} = {{ \"ghcr.io\" = \"user:password\" }}\n", key.name()),
            _ => format!("# {} = {}\n", key.name(), key.kind.toml_of(value)),
        };
        if key.secret {
            file += &format!("# {}_file = \"/run/credentials/codiusd.service/{}\"\n", key.name(), key.path.replace('.', "_"));
        }
    }
    file
}
