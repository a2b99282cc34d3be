//! The line that moves while a load runs. On a terminal only: in a pipe nothing of it appears.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::plan::{Plan, Until};
use crate::run::Interval;

const BAR: usize = 24;

pub struct LiveLine {
    shown: bool,
    /// Something of it is on the screen.
    drawn: bool,
    name: String,
    until: Until,
    last: (Duration, u64),
    rate: f64,
}

impl LiveLine {
    /// `wanted`: whether the output asked for leaves room for it.
    pub fn new(wanted: bool) -> LiveLine {
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        LiveLine {
            shown: wanted && terminal,
            drawn: false,
            name: String::new(),
            until: Until::Requests(1),
            last: (Duration::ZERO, 0),
            rate: 0.0,
        }
    }

    pub fn begin(&mut self, plan: &Plan) {
        self.name = plan.workload.name.clone();
        self.until = plan.until;
        self.last = (Duration::ZERO, 0);
        self.rate = 0.0;
    }

    pub fn draw(&mut self, elapsed: Duration, replies: u64, interval: Option<&Interval>) {
        if !self.shown {
            return;
        }
        let passed = (elapsed - self.last.0).as_secs_f64();
        if passed >= 0.25 {
            self.rate = (replies - self.last.1) as f64 / passed;
            self.last = (elapsed, replies);
        }
        let done = match self.until {
            Until::Requests(count) => replies as f64 / count as f64,
            Until::Time(time) => elapsed.as_secs_f64() / time.as_secs_f64(),
        };
        let line = text(&self.name, done, self.rate, interval);
        self.drawn = true;
        // What does not fit into a narrow terminal is cut off by it: a second row would stay for ever.
        // Nothing depends on this line: a terminal that went away is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[2K\x1b[?7l{line}\x1b[?7h");
    }

    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

impl Drop for LiveLine {
    /// However the load ended: what is told next begins a line of its own.
    fn drop(&mut self) {
        self.clear();
    }
}

fn text(name: &str, done: f64, rate: f64, interval: Option<&Interval>) -> String {
    let filled = (done.clamp(0.0, 1.0) * BAR as f64) as usize;
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(BAR - filled));
    let mut line = format!("{name}: [{bar}] {:3.0} %  {rate:.0}/s", done.min(1.0) * 100.0);
    if let Some(Interval { latency_ms, errors, .. }) = interval {
        line += &format!("  p50 {:.3} p99 {:.3} max {:.3} ms", latency_ms.p50, latency_ms.p99, latency_ms.max);
        if *errors > 0 {
            line += &format!("  {errors} errors");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        assert_eq!(text("SET", 0.0, 0.0, None), format!("SET: [{}]   0 %  0/s", "-".repeat(BAR)));
        assert_eq!(text("SET", 7.0, 5.4, None), format!("SET: [{}] 100 %  5/s", "#".repeat(BAR)));
    }
}
