//! How codiusd stops, and starts again under sockets that stay: what clients notice of it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use codiusd_kit::{Payer, Upload, process::Signal, until};

use crate::host;

/// No answer takes longer, also when codiusd is started in between.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that ask for a page on a new connection each time, until told to stop.
struct Visitors {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Visitors {
    fn start(count: usize, address: SocketAddr, host: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let visitor = |_| {
            let (stop, answered, host) = (stop.clone(), answered.clone(), host.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = visit(address, &host).map_err(|error| error.to_string())?;
                    if !answer.starts_with("HTTP/1.1 200 ") {
                        return Err(answer);
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let threads = (0..count).map(visitor).collect();
        Self { stop, answered, threads }
    }

    async fn go_on(&self, answers: u32) {
        let goal = self.answered.load(Ordering::Relaxed) + answers;
        until("more answers", PATIENCE, async || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a visitor has failed");
            (self.answered.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    fn finish(self) -> Vec<Result<(), String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    }
}

fn visit(address: SocketAddr, host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_a_socket_that_stays_fails_no_visit() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let inode = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    let mut host = host().keep_pods().socket(socket).start().await;
    assert_eq!(host.edge(), address);
    let payer = Payer::connect(host.ilp()).await;
    let pod = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    let name = format!("{pod}.{}", host.authority());
    let visitors = Visitors::start(4, address, &name);
    let home = Visitors::start(1, address, host.authority());
    for _ in 0..3 {
        visitors.go_on(50).await;
        home.go_on(5).await;
        let status = host.terminate().await;
        assert!(status.success(), "{status}");
        for process in host.traces().processes {
            let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            let held = files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == inode);
            assert!(!held, "process {process} of a pod has the socket");
        }
        host.start_again().await;
    }
    visitors.go_on(50).await;
    for visitors in [visitors, home] {
        let ended = visitors.finish();
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut host = host().set("CODIUS_RUNTIME", "noop").set("CODIUS_EDGE_DRAIN_SECONDS", "600").start().await;
    let ready = host.root().join("run/ready.json");
    // An upload whose body doesn't come: it is under way when it has been asked for.
    let mut upload = TcpStream::connect(host.edge()).expect("connect");
    upload.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let head = format!("POST /pods HTTP/1.1\r\nHost: {}\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n", host.authority());
    upload.write_all(head.as_bytes()).expect("send");
    let mut asked = [0; 25];
    upload.read_exact(&mut asked).expect("an answer");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    let edge = host.edge();
    host.running().signal(Signal::SIGTERM);
    until("the listener to be closed", PATIENCE, async || TcpStream::connect(edge).is_err().then_some(())).await;
    assert!(!ready.exists(), "readiness goes before the listeners");
    assert_eq!(host.running().ended(), None, "the upload is waited for");
    let began = std::time::Instant::now();
    let status = host.interrupt(Signal::SIGTERM).await;
    assert_eq!(status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
