//! The bench leaves nothing behind, however it ends.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Exit code of what is not possible here.
const NOT_POSSIBLE: i32 = 77;

fn start() -> Child {
    let programs = Path::new(env!("CARGO_BIN_EXE_annulus-ceiling")).parent().expect("a program lies in a directory");
    let path = format!("{}:{}:/usr/sbin:/sbin", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut bench = Command::new(env!("CARGO_BIN_EXE_annulus-bench"));
    bench.args(["run", "--peers", "ceiling", "--rounds", "1", "--seconds", "5", "--plugins"]);
    bench.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")).env("PATH", path);
    bench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the bench was built")
}

/// The processes that the threads of a process have started, by name.
fn children(pid: u32, name: &str) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let all = threads.flat_map(|thread| {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    });
    all.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)).collect()
}

/// Whether a process still runs; one that only waits to be noticed does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn daemons_end_with_the_bench_after_ctrl_c_and_after_a_kill() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut bench = start();
        let end = Instant::now() + Duration::from_secs(30);
        let daemons = loop {
            let daemons = children(bench.id(), "annulus-ceiling");
            if daemons.len() == 2 {
                break daemons;
            }
            if let Some(status) = bench.try_wait().unwrap() {
                assert_eq!(status.code(), Some(NOT_POSSIBLE), "the bench ended before its daemons ran");
                let _ = writeln!(std::io::stdout(), "SKIPPED: namespaces or iperf3 are not there");
                return;
            }
            assert!(Instant::now() < end, "the daemons do not run");
            sleep(Duration::from_millis(5));
        };
        kill(Pid::from_raw(bench.id().cast_signed()), signal).unwrap();
        bench.wait().unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while daemons.iter().any(|pid| runs(*pid)) {
            assert!(Instant::now() < end, "daemons live on after {signal}");
            sleep(Duration::from_millis(10));
        }
    }
}
