//! Fault injection, so that tests can check what happens when a service ends. Release builds don't have it.

use crate::Running;

/// How a service ends; jobs and threads can only panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It returns.
    End,
    /// It panics.
    Panic,
}

#[cfg(debug_assertions)]
mod on_demand {
    use tokio::sync::watch;

    use super::Fault;
    use crate::Running;

    #[derive(Default)]
    pub(crate) struct Faults(watch::Sender<Option<(String, Fault)>>);

    impl Faults {
        pub(crate) fn inject(&self, name: &str, fault: Fault) {
            self.0.send_replace(Some((name.to_owned(), fault)));
        }

        fn of(&self, name: &str) -> Option<Fault> {
            self.0.borrow().as_ref().filter(|(wanted, _)| wanted == name).map(|(_, fault)| *fault)
        }

        pub(crate) async fn injected(&self, name: &str) -> Fault {
            let mut faults = self.0.subscribe();
            loop {
                if let Some(fault) = self.of(name) {
                    return fault;
                }
                if faults.changed().await.is_err() {
                    std::future::pending().await
                }
            }
        }
    }

    impl Running {
        pub(crate) async fn or_fault(&self, service: impl Future<Output = ()>) {
            tokio::select! {
                biased;
                fault = self.supervisor.0.faults.injected(self.name) => suffer(self.name, fault),
                () = service => {}
            }
        }

        pub(crate) async fn or_panic<T>(&self, job: impl Future<Output = T>) -> T {
            tokio::pin!(job);
            tokio::select! {
                biased;
                fault = self.supervisor.0.faults.injected(self.name) => suffer(self.name, fault),
                done = &mut job => return done,
            }
            job.await
        }

        /// A point where an injected fault makes a thread panic.
        pub fn fault_point(&self) {
            if let Some(fault) = self.supervisor.0.faults.of(self.name) {
                suffer(self.name, fault);
            }
        }
    }

    pub(crate) fn suffer(name: &str, fault: Fault) {
        assert!(fault == Fault::End, "a fault that was asked for, in {name}");
    }
}

#[cfg(not(debug_assertions))]
mod on_demand {
    use super::Fault;
    use crate::Running;

    #[derive(Default)]
    pub(crate) struct Faults;

    impl Faults {
        pub(crate) fn inject(&self, _name: &str, _fault: Fault) {}

        pub(crate) async fn injected(&self, _name: &str) -> Fault {
            std::future::pending().await
        }
    }

    pub(crate) fn suffer(_name: &str, _fault: Fault) {}

    impl Running {
        pub(crate) async fn or_fault(&self, service: impl Future<Output = ()>) {
            service.await
        }

        pub(crate) async fn or_panic<T>(&self, job: impl Future<Output = T>) -> T {
            job.await
        }

        /// A point where an injected fault makes a thread panic.
        pub fn fault_point(&self) {}
    }
}

pub(crate) use on_demand::{Faults, suffer};

impl Running {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}
