//! What daemon and machine tell each other: one JSON value per line, over the machine's socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// From the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(super) enum Command {
    /// Run a container's command.
    Run(Box<Run>),
    /// Send a signal to a container's first process.
    Signal {
        /// Id of the container.
        container: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Stop all processes of all containers.
    Pause,
    /// Let them go on.
    Unpause,
    /// End, with all that runs inside.
    End,
}

/// What to run, and in what surroundings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// Id of the container.
    pub container: String,
    /// Directory that becomes its root.
    pub root: PathBuf,
    /// What is mounted into it: from, to.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Where it starts, seen from inside.
    pub workdir: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// All of its environment.
    pub environment: Vec<(String, String)>,
}

/// From the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    /// First of all on each connection.
    Greeting {
        /// Containers whose first process is there.
        running: Vec<String>,
        /// Containers that wait in `write()` because nobody reads their output.
        stalled: Vec<String>,
    },
    /// A container has been started, or couldn't be.
    Started {
        /// Id of the container.
        container: String,
    },
    /// A line of output.
    Line {
        /// Id of the container.
        container: String,
        /// 1 is standard output, 2 standard error.
        stream: u8,
        /// Newline included.
        text: String,
    },
    /// A container waits in `write()` from now on.
    Stalled {
        /// Id of the container.
        container: String,
    },
    /// A container's first process has ended.
    Exited {
        /// Id of the container.
        container: String,
        /// How, or else by which signal.
        code: Option<i32>,
        /// By which signal.
        signal: Option<i32>,
    },
}
