//! What daemons cost: processor time and memory, with all that they started, from /proc.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// Memory of one process and all that it started, in kB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident pages, shared ones included.
    pub(crate) resident: u64,
    /// Pages of its own.
    pub(crate) private: u64,
}

/// A process and its descendants.
fn family(pid: u32) -> Vec<u32> {
    let (mut todo, mut all) = (vec![pid], Vec::new());
    while let Some(pid) = todo.pop() {
        all.push(pid);
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            todo.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

/// Seconds of processor time, user and system, that the processes and their descendants have used.
#[must_use]
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let ticks = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| ticks_of(&stat)).unwrap_or(0);
    pids.iter().flat_map(|pid| family(*pid)).map(ticks).sum::<u64>() as f64 / per_second
}

/// User and system time in a line of /proc/PID/stat. The name in it may contain spaces and parentheses.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// The memory of the largest of the processes (each with its descendants).
#[must_use]
pub(crate) fn memory(pids: &[u32]) -> Memory {
    pids.iter().map(|pid| memory_of(*pid)).max_by_key(|memory| memory.resident).unwrap_or_default()
}

/// The memory of one process with its descendants.
#[must_use]
pub(crate) fn memory_of(pid: u32) -> Memory {
    family(pid).into_iter().fold(Memory::default(), |total, pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        Memory {
            resident: total.resident + kilobytes(&rollup, &["Rss:"]),
            private: total.private + kilobytes(&rollup, &["Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"]),
        }
    })
}

fn kilobytes(rollup: &str, names: &[&str]) -> u64 {
    let values = rollup.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        names.contains(&words.next()?).then(|| words.next()?.parse::<u64>().ok()).flatten()
    });
    values.sum()
}

/// Busy and all time of the machine's processors since the start, in ticks.
fn machine_ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// The part of the machine's processors that was busy for so many milliseconds from now on, 0 to 1.
#[must_use]
pub(crate) fn busy(milliseconds: u64) -> f64 {
    let before = machine_ticks();
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    let after = machine_ticks();
    (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_the_name_whatever_is_in_it() {
        let stat = "42 (a ) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 17 25 0 0 20 0 3 0 100 1000 200";
        assert_eq!(ticks_of(stat), Some(42));
        assert_eq!(ticks_of("42 (a"), None);
        assert_eq!(ticks_of("42 (a) S 1"), None);
    }

    #[test]
    fn memory_is_summed_by_name() {
        let rollup = "0-1 ---p 0 00:00 0 [rollup]\nRss:    1234 kB\nPss:  9 kB\nPrivate_Clean:  100 kB\nPrivate_Dirty:  23 kB\n";
        assert_eq!(kilobytes(rollup, &["Rss:"]), 1234);
        assert_eq!(kilobytes(rollup, &["Private_Clean:", "Private_Dirty:"]), 123);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let own = memory(&[std::process::id()]);
        assert!(own.private > 0 && own.resident >= own.private);
        assert!(cpu_seconds(&[std::process::id()]) >= 0.0);
        assert!((0.0..=1.0).contains(&busy(20)));
    }
}
