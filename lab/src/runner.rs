//! A test runner for programs that must enter namespaces before any thread exists, which libtest's programs cannot.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::time::{Duration, Instant};

use annulus_tun_bridge::Unavailable;
use anyhow::Result;

/// A test: a sentence, and what shows that it is true.
pub type Test = (&'static str, fn() -> Result<()>);

/// Runs the tests one after another in namespaces of this process, and ends it: 0 if all passed, 101 if not. Skips all of them, and says so
/// loudly, where namespaces or TUN devices cannot be made; `ANNULUS_REQUIRE_LAB=1` turns that into a failure.
///
/// Understands libtest's `--list`, `--exact` and name filters. Use it as `main` of a test with `harness = false`, after nothing else.
pub fn run_tests(tests: &[Test]) -> ! {
    crate::child_main();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let exact = args.iter().any(|arg| arg == "--exact");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty() || filters.iter().any(|filter| if exact { name == *filter } else { name.contains(filter.as_str()) })
    };
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| wanted(name)).collect();
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in chosen {
            say(&format!("{name}: test"));
        }
        exit(0);
    }
    let start = Instant::now();
    if chosen.is_empty() {
        say("running 0 tests");
        say(&summary("ok", 0, 0, 0, tests.len(), start.elapsed()));
        exit(0);
    }
    if let Err(error) = crate::probe().and_then(|()| crate::enter_user_namespace()) {
        say(&format!("SKIPPED {} tests: {error:#}", chosen.len()));
        say(&summary("ok", 0, 0, chosen.len(), tests.len() - chosen.len(), start.elapsed()));
        let required = std::env::var_os("ANNULUS_REQUIRE_LAB").is_some_and(|value| value == "1");
        // Anything but a lack of the machine is a mistake of the tests.
        exit(if error.is::<Unavailable>() && !required { 0 } else { 101 });
    }
    say(&format!("running {} tests in namespaces", chosen.len()));
    let mut failed: usize = 0;
    for (name, test) in &chosen {
        let begun = Instant::now();
        let outcome = match catch_unwind(AssertUnwindSafe(test)) {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => format!("FAILED: {error:#}"),
            Err(_) => "FAILED".to_owned(),
        };
        failed += usize::from(outcome != "ok");
        say(&format!("test {name} ... {outcome} ({:.1} s)", begun.elapsed().as_secs_f32()));
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    say(&summary(word, chosen.len() - failed, failed, 0, tests.len() - chosen.len(), start.elapsed()));
    exit(if failed == 0 { 0 } else { 101 })
}

/// The line by which programs count libtest's results.
fn summary(word: &str, passed: usize, failed: usize, ignored: usize, filtered: usize, time: Duration) -> String {
    format!(
        "test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s",
        time.as_secs_f32()
    )
}

fn say(line: &str) {
    // Without a listener the exit code still tells.
    let _ = writeln!(std::io::stdout(), "{line}");
}
