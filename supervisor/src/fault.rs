//! Faults on demand, so that tests can see what happens when each service ends. A build for production has none.

use crate::Running;

/// How a service is ended; jobs and threads only panic.
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
    pub(crate) struct Faults(watch::Sender<Option<(&'static str, Fault)>>);

    impl Faults {
        pub(crate) fn inject(&self, name: &'static str, fault: Fault) -> bool {
            self.0.send_replace(Some((name, fault)));
            true
        }
    }

    impl Running {
        fn fault(&self) -> Option<Fault> {
            self.supervisor.0.faults.0.borrow().filter(|(name, _)| *name == self.name).map(|(_, fault)| fault)
        }

        async fn injected(&self) -> Fault {
            let mut faults = self.supervisor.0.faults.0.subscribe();
            loop {
                if let Some(fault) = self.fault() {
                    return fault;
                }
                if faults.changed().await.is_err() {
                    std::future::pending().await
                }
            }
        }

        pub(crate) async fn or_fault(&self, service: impl Future<Output = ()>) {
            tokio::select! {
                fault = self.injected() => self.suffer(fault),
                () = service => {}
            }
        }

        pub(crate) async fn or_panic<T>(&self, job: impl Future<Output = T>) -> T {
            tokio::pin!(job);
            tokio::select! {
                fault = self.injected() => self.suffer(fault),
                done = &mut job => return done,
            }
            job.await
        }

        /// Where a thread can be made to panic.
        pub fn fault_point(&self) {
            if let Some(fault) = self.fault() {
                self.suffer(fault);
            }
        }

        fn suffer(&self, fault: Fault) {
            assert!(fault == Fault::End, "a fault that was asked for, in {}", self.name);
        }
    }
}

#[cfg(not(debug_assertions))]
mod on_demand {
    use super::Fault;
    use crate::Running;

    #[derive(Default)]
    pub(crate) struct Faults;

    impl Faults {
        pub(crate) fn inject(&self, _name: &'static str, _fault: Fault) -> bool {
            false
        }
    }

    impl Running {
        pub(crate) async fn or_fault(&self, service: impl Future<Output = ()>) {
            service.await
        }

        pub(crate) async fn or_panic<T>(&self, job: impl Future<Output = T>) -> T {
            job.await
        }

        /// Where a thread can be made to panic.
        pub fn fault_point(&self) {}
    }
}

pub(crate) use on_demand::Faults;

impl Running {
    /// The name it has.
    pub fn name(&self) -> &'static str {
        self.name
    }
}
