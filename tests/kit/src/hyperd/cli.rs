//! Command lines of the double: the daemon, and the processes it makes of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::Ipv4Addr,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use super::{container, daemon, net, vm};

const USAGE: &str = "usage: hyperd --dir DIR --socket PATH [--network 192.168.N.0/24] [--bridge NAME] [--prefix BITS] [--boot-ms MS] \
     [--time-scale FACTOR] [--dying-crashes PERCENT] [--chatty-lost PERCENT] [--seed NUMBER] [--image NAME=PROGRAM]...";

/// Runs what the command line asks for.
pub(super) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some(vm::OUTER) => vm::outer(&Arguments::of(&arguments[1..])),
        Some(vm::INNER) => vm::inner(&Arguments::of(&arguments[1..])),
        Some(container::COMMAND) => Err(container::enter(&arguments[1..])),
        _ => Options::of(&Arguments::of(&arguments)).and_then(daemon::run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(container::FAILED)
        }
    }
}

/// Pairs of `--key value`.
#[derive(Debug)]
pub(super) struct Arguments(Vec<(String, String)>);

impl Arguments {
    fn of(words: &[String]) -> Self {
        let pair = |pair: &[String]| (pair[0].trim_start_matches("--").to_owned(), pair.get(1).cloned().unwrap_or_default());
        Self(words.chunks(2).map(pair).collect())
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of a key that must be there.
    pub(super) fn get<T: FromStr<Err: Display>>(&self, key: &str) -> Result<T, String> {
        self.find(key)?.ok_or_else(|| format!("--{key} is missing\n{USAGE}"))
    }

    fn find<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>, String> {
        self.all(key).last().map(|value| value.parse().map_err(|error| format!("--{key} {value}: {error}"))).transpose()
    }
}

/// How the daemon is to be.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Where it keeps everything.
    pub dir: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
    /// Network of the pods, the last octet being 0.
    pub network: Ipv4Addr,
    /// Length of its prefix, 24 or longer.
    pub prefix: u8,
    /// The bridge they are on.
    pub bridge: String,
    /// How long a machine takes to boot.
    pub boot: Duration,
    /// Factor for all of hyperd's own delays.
    pub time_scale: f64,
    /// In how many cases of a hundred it crashes when a machine goes that nobody has ended.
    pub dying_crashes: u8,
    /// In how many it loses the machine of a container that writes a lot when it finds that again.
    pub chatty_lost: u8,
    /// What those cases are follows from it.
    pub seed: u64,
    /// Images beside the built-in ones, and the program that is in each.
    pub images: BTreeMap<String, PathBuf>,
}

impl Options {
    fn of(arguments: &Arguments) -> Result<Self, String> {
        let known = BTreeSet::from([
            "dir",
            "socket",
            "network",
            "bridge",
            "prefix",
            "boot-ms",
            "time-scale",
            "image",
            "dying-crashes",
            "chatty-lost",
            "seed",
        ]);
        if let Some((key, _)) = arguments.0.iter().find(|(key, _)| !known.contains(key.as_str())) {
            return Err(format!("--{key} is unknown\n{USAGE}"));
        }
        let network = arguments.find::<String>("network")?.unwrap_or_else(|| "192.168.123.0/24".to_owned());
        let address = network.strip_suffix(".0/24").map(|start| format!("{start}.0"));
        let address =
            address.and_then(|address| address.parse().ok()).ok_or_else(|| format!("--network {network} isn't like 192.168.N.0/24"))?;
        let mut images = BTreeMap::new();
        for image in arguments.all("image") {
            let (name, program) = image.split_once('=').ok_or_else(|| format!("--image {image} isn't like NAME=PROGRAM"))?;
            images.insert(name.to_owned(), PathBuf::from(program));
        }
        Ok(Self {
            dir: arguments.get("dir")?,
            socket: arguments.get("socket")?,
            network: address,
            prefix: arguments.find("prefix")?.unwrap_or(net::PREFIX),
            bridge: arguments.find("bridge")?.unwrap_or_else(|| net::bridge(address)),
            boot: Duration::from_millis(arguments.find("boot-ms")?.unwrap_or_default()),
            time_scale: arguments.find("time-scale")?.unwrap_or(1.0),
            dying_crashes: arguments.find("dying-crashes")?.unwrap_or_default(),
            chatty_lost: arguments.find("chatty-lost")?.unwrap_or_default(),
            seed: arguments.find("seed")?.unwrap_or_default(),
            images,
        })
    }

    /// One of hyperd's own delays, as long as it is here.
    pub(super) fn scaled(&self, delay: Duration) -> Duration {
        delay.mul_f64(self.time_scale)
    }
}
