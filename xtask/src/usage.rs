//! What processes used, by the kernel's accounting: it holds where rates swing with whatever else the machine does.

use std::fs;

/// Kernel clock ticks a second, fixed in the interface to programs.
const TICKS_A_SECOND: f64 = 100.0;

/// A process's own time and that of its children that have ended, in seconds.
fn cpu_of(pid: u32) -> Option<(f64, f64, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything; fields are numbered from 1.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let own = (field(14)? + field(15)?) / TICKS_A_SECOND;
    let ended = (field(16)? + field(17)?) / TICKS_A_SECOND;
    Some((own, ended, fields.get(1)?.parse().ok()?))
}

/// Seconds of processor time a process has used.
pub fn cpu_s(pid: u32) -> f64 {
    cpu_of(pid).map_or(0.0, |(own, ..)| own)
}

/// Seconds a process, its living children and its ended ones have used.
pub fn family_cpu_s(pid: u32) -> f64 {
    let (own, ended, _) = cpu_of(pid).unwrap_or_default();
    let children = fs::read_dir("/proc").into_iter().flatten().flatten();
    let living = children
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(cpu_of)
        .filter(|(_, _, parent)| *parent == pid)
        .map(|(own, ..)| own)
        .sum::<f64>();
    own + ended + living
}

/// Seconds that children of this process used which have ended and were waited for.
pub fn ended_children_s() -> f64 {
    cpu_of(std::process::id()).map_or(0.0, |(_, ended, _)| ended)
}

/// The parent of a process.
pub fn parent_of(pid: u32) -> Option<u32> {
    cpu_of(pid).map(|(_, _, parent)| parent)
}

/// The most memory a process ever held, in MiB.
pub fn peak_mib(pid: u32) -> f64 {
    memory_kib(pid, "VmHWM:") / 1024.0
}

/// The memory a process holds now, in KiB.
pub fn resident_kib(pid: u32) -> f64 {
    memory_kib(pid, "VmRSS:")
}

fn memory_kib(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
}
