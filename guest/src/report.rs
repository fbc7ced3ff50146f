//! What a container's first process reports before its program replaces it: that it waits for its start, or which step failed. A pipe that
//! a successful execution closes.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    time::Duration,
};

use nix::poll::PollFlags;

use crate::wait;

/// How long a step of the process may take: mounts on an emulated machine on a busy host.
const REPORT_WAIT: Duration = Duration::from_secs(30);
/// Longest report, in bytes.
const BYTES_MAX: usize = 512;
const READY: u8 = b'+';

/// The kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Anything before the wait for the start.
    Prepare,
    /// Applying the system call filters.
    Confine,
    /// Entering a working directory on the machine's own file systems.
    Enter,
    /// Executing the program.
    Execute,
}

/// A failed step.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) stage: Stage,
    pub(crate) step: String,
    pub(crate) error: io::Error,
}

/// Adds the failed step to an error.
pub(crate) trait At<T> {
    fn at(self, stage: Stage, step: &str) -> Result<T, Failed>;

    fn preparing(self, step: &str) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, stage: Stage, step: &str) -> Result<T, Failed> {
        self.map_err(|error| Failed { stage, step: step.to_owned(), error: error.into() })
    }

    fn preparing(self, step: &str) -> Result<T, Failed> {
        self.at(Stage::Prepare, step)
    }
}

impl Failed {
    /// What the process itself doesn't report.
    fn other(what: &str) -> Self {
        Self { stage: Stage::Prepare, step: "creating the container".to_owned(), error: io::Error::other(what.to_owned()) }
    }

    fn encode(&self) -> Vec<u8> {
        let stage = match self.stage {
            Stage::Prepare => b'p',
            Stage::Confine => b'f',
            Stage::Enter => b'c',
            Stage::Execute => b'x',
        };
        let mut bytes = vec![stage];
        bytes.extend(self.error.raw_os_error().unwrap_or_default().to_le_bytes());
        bytes.extend(format!("{}\0{}", self.step, self.error).bytes().take(BYTES_MAX - bytes.len()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (stage, rest) = bytes.split_first()?;
        let (errno, texts) = rest.split_first_chunk()?;
        let stage = match stage {
            b'c' => Stage::Enter,
            b'f' => Stage::Confine,
            b'x' => Stage::Execute,
            _ => Stage::Prepare,
        };
        let text = String::from_utf8_lossy(texts);
        let (step, told) = text.split_once('\0')?;
        let error = match i32::from_le_bytes(*errno) {
            0 => io::Error::other(told.to_owned()),
            errno => io::Error::from_raw_os_error(errno),
        };
        Some(Self { stage, step: step.to_owned(), error })
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Reports(pub(crate) File);

impl Reports {
    /// Waits until the process waits for its start.
    pub(crate) fn ready(&mut self) -> Result<(), Failed> {
        match self.next()? {
            Some(bytes) if bytes == [READY] => Ok(()),
            Some(bytes) => Err(Self::failed(&bytes)),
            None => Err(Failed::other("its process has ended")),
        }
    }

    /// Waits until the process has executed its program.
    pub(crate) fn executed(&mut self) -> Result<(), Failed> {
        self.next()?.map_or(Ok(()), |bytes| Err(Self::failed(&bytes)))
    }

    /// One report, written at once; none at the end.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Failed> {
        let mut read = || {
            wait::ready("a container's first process", self.0.as_fd(), PollFlags::POLLIN, REPORT_WAIT)?;
            let mut bytes = vec![0; BYTES_MAX];
            let length = self.0.read(&mut bytes)?;
            bytes.truncate(length);
            Ok::<_, io::Error>((length > 0).then_some(bytes))
        };
        read().preparing("creating the container")
    }

    fn failed(bytes: &[u8]) -> Failed {
        Failed::decode(bytes).unwrap_or_else(|| Failed::other("its process reports nonsense"))
    }
}

/// The writing end, in the process itself.
#[derive(Debug)]
pub(crate) struct Reporter(pub(crate) File);

impl Reporter {
    pub(crate) fn ready(&mut self) -> io::Result<()> {
        io::Write::write_all(&mut self.0, &[READY])
    }

    pub(crate) fn failed(&mut self, failed: &Failed) {
        io::Write::write_all(&mut self.0, &failed.encode()).ok(); // the end of the pipe is a report, too
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn pipe() -> (Reports, Reporter) {
        let (reader, writer) = io::pipe().unwrap();
        (Reports(OwnedFd::from(reader).into()), Reporter(OwnedFd::from(writer).into()))
    }

    #[test]
    fn a_process_that_executes_its_program_reports_nothing_more() {
        let (mut reports, mut reporter) = pipe();
        reporter.ready().unwrap();
        reports.ready().unwrap();
        drop(reporter);
        reports.executed().unwrap();
    }

    #[test]
    fn a_failed_step_is_read_as_it_was_written() {
        for stage in [Stage::Prepare, Stage::Confine, Stage::Enter, Stage::Execute] {
            let (mut reports, mut reporter) = pipe();
            reporter.failed(&Err::<(), _>(nix::errno::Errno::ENOEXEC).at(stage, "mounting /dev").unwrap_err());
            let failed = reports.executed().unwrap_err();
            assert_eq!((failed.stage, &*failed.step, failed.error.raw_os_error()), (stage, "mounting /dev", Some(nix::libc::ENOEXEC)));
        }
        let (mut reports, mut reporter) = pipe();
        reporter.failed(&Failed::other("in words"));
        assert_eq!(reports.ready().unwrap_err().error.to_string(), "in words");
        drop(reporter);
        assert_eq!(reports.ready().unwrap_err().error.to_string(), "its process has ended");
    }
}
