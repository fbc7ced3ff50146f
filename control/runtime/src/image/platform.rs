//! The platforms of images, and that of this machine.

use std::fmt;

use serde::Deserialize;

use super::manifest::or_default;

/// The platform of an image, or of an entry of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    #[serde(deserialize_with = "or_default")]
    variant: String,
    #[serde(rename = "os.features", deserialize_with = "or_default")]
    os_features: Vec<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// This machine, as far as it matters to images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) architecture: &'static str,
    /// The processor's level of its architecture: for amd64, the micro-architecture level (x86-64 psABI).
    pub(super) level: u8,
}

impl Machine {
    /// The machine this process runs on.
    pub(super) fn this() -> Self {
        Self { architecture: architecture(), level: level() }
    }

    /// How well an image runs here, higher is better; none if it doesn't. Empty fields match anything.
    pub(super) fn rank(self, platform: &Platform) -> Option<u8> {
        let os = platform.os.to_ascii_lowercase();
        let named = match &*platform.architecture.to_ascii_lowercase() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        };
        let fits = (os.is_empty() || os == "linux") && (named.is_empty() || named == self.architecture) && platform.os_features.is_empty();
        let variant = platform.variant.to_ascii_lowercase();
        let level = match (self.architecture, &*variant) {
            (_, "") => 1,
            ("amd64", variant) => variant.strip_prefix('v')?.parse().ok().filter(|level| (1..=self.level).contains(level))?,
            ("arm64", "v8" | "8") => 1,
            _ => return None,
        };
        fits.then_some(level)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)
    }
}

/// This machine's architecture, in the names images use.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(target_arch = "x86_64")]
fn level() -> u8 {
    macro_rules! has {
        ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let second = has!("cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3");
    let third = second && has!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "xsave");
    let fourth = third && has!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    1 + u8::from(second) + u8::from(third) + u8::from(fourth)
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(os: &str, architecture: &str, variant: &str) -> Platform {
        Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned(), os_features: Vec::new() }
    }

    #[test]
    fn what_runs_on_a_machine() {
        let third = Machine { architecture: "amd64", level: 3 };
        let arm = Machine { architecture: "arm64", level: 1 };
        let cases = [
            (third, platform("linux", "amd64", ""), Some(1)),
            (third, platform("linux", "amd64", "v1"), Some(1)),
            (third, platform("Linux", "x86_64", "v2"), Some(2)),
            (third, platform("linux", "amd64", "v3"), Some(3)),
            (third, platform("linux", "amd64", "v4"), None),
            (third, platform("linux", "amd64", "v0"), None),
            (third, platform("linux", "amd64", "v256"), None),
            (third, platform("linux", "amd64", "baseline"), None),
            (third, platform("linux", "386", ""), None),
            (third, platform("windows", "amd64", ""), None),
            (third, platform("unknown", "unknown", ""), None),
            (third, platform("", "", ""), Some(1)),
            (arm, platform("linux", "arm64", "v8"), Some(1)),
            (arm, platform("linux", "aarch64", ""), Some(1)),
            (arm, platform("linux", "arm64", "v9"), None),
            (arm, platform("linux", "arm", "v7"), None),
        ];
        for (machine, platform, right) in cases {
            assert_eq!(machine.rank(&platform), right, "{platform} on {machine:?}");
        }
        let featured = Platform { os_features: vec!["erofs".to_owned()], ..platform("linux", "amd64", "") };
        assert_eq!(third.rank(&featured), None, "nobody here knows what that is");
    }
}
