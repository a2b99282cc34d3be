//! Latency histograms in the formats of HdrHistogram's tools: `.hgrm` (percentiles, as text) and `.hlog`
//! (one compressed histogram per second).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::{file_name, ms};
use crate::failure::Failure;

/// The log is in nanoseconds; its maxima are shown in milliseconds.
const MAX_VALUE_DIVISOR: f64 = 1e6;

pub fn path(prefix: &str, test: &str, extension: &str) -> PathBuf {
    PathBuf::from(format!("{prefix}_{}.{extension}", file_name(test)))
}

/// One line per second, written as the load goes on.
pub struct IntervalLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl IntervalLog {
    pub fn create(path: PathBuf, test: &str) -> Result<IntervalLog, Failure> {
        let file = File::create(&path).map_err(|error| cannot_write(&path, error))?;
        let mut file = BufWriter::new(file);
        let mut serializer = V2DeflateSerializer::new();
        let now = SystemTime::now();
        IntervalLogWriterBuilder::new()
            .add_comment(&format!("loadgen, test {test}; values are nanoseconds"))
            .with_start_time(now)
            .with_base_time(now)
            .with_max_value_divisor(MAX_VALUE_DIVISOR)
            .begin_log_with(&mut file, &mut serializer)
            .map_err(|error| cannot_write(&path, error))?;
        Ok(IntervalLog { path, file })
    }

    pub fn add(&mut self, start: Duration, length: Duration, latency_ns: &Histogram<u64>) -> Result<(), Failure> {
        let line = interval_line(start, length, latency_ns);
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(|error| cannot_write(&self.path, error))
    }
}

/// The writer of the library borrows its output for as long as it lives, so each line has one of its own.
fn interval_line(start: Duration, length: Duration, latency_ns: &Histogram<u64>) -> Vec<u8> {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    IntervalLogWriterBuilder::new()
        .with_base_time(UNIX_EPOCH)
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut log, &mut serializer)
        .expect("memory takes all")
        .write_histogram(latency_ns, start, length, None::<Tag<'_>>)
        .expect("memory takes all");
    // Behind the header.
    log.split_inclusive(|&byte| byte == b'\n').next_back().unwrap_or_default().to_vec()
}

/// The percentiles of the whole load.
pub fn write_percentiles(path: &Path, latency_ns: &Histogram<u64>) -> Result<(), Failure> {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut count = 0;
    for step in latency_ns.iter_quantiles(5) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let inverse =
            if quantile < 1.0 { format!("{:14.2}", 1.0 / (1.0 - quantile)) } else { format!("{:>14}", "inf") };
        let _ = writeln!(text, "{:12.6} {quantile:14.12} {count:10} {inverse}", ms(step.value_iterated_to()));
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.6}, StdDeviation   = {:12.6}]\n#[Max     = {:12.6}, Total count    = {:12}]",
        latency_ns.mean() / 1e6,
        latency_ns.stdev() / 1e6,
        ms(latency_ns.max()),
        latency_ns.len()
    );
    fs::write(path, text).map_err(|error| cannot_write(path, error))
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::system(format!("cannot write {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn a_log_reads_back() {
        let directory = std::env::temp_dir().join(format!("loadgen-hdr-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("test.hlog");
        let mut log = IntervalLog::create(path.clone(), "SET").unwrap();
        for second in 0..3u64 {
            let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).unwrap();
            histogram.record_n(1_000_000 * (second + 1), 10).unwrap();
            log.add(Duration::from_secs(second), Duration::from_secs(1), &histogram).unwrap();
        }
        let bytes = fs::read(&path).unwrap();
        let mut percentiles = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).unwrap();
        percentiles.record_n(2_000_000, 99).unwrap();
        percentiles.record(9_000_000).unwrap();
        write_percentiles(&directory.join("test.hgrm"), &percentiles).unwrap();
        let text = fs::read_to_string(directory.join("test.hgrm")).unwrap();
        fs::remove_dir_all(&directory).unwrap();

        let mut seconds = 0;
        for entry in IntervalLogIterator::new(&bytes) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                assert_eq!(interval.start_timestamp().as_secs(), seconds);
                let packed = hdrhistogram_base64(interval.encoded_histogram());
                let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &packed[..]).unwrap();
                assert_eq!((histogram.len(), histogram.max() / 1_000_000), (10, seconds + 1));
                seconds += 1;
            }
        }
        assert_eq!(seconds, 3);
        assert!(text.contains("inf") && text.contains("Total count    =          100"), "{text}");
    }

    /// Base64, for the test only.
    fn hdrhistogram_base64(text: &str) -> Vec<u8> {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |byte: &u8| LETTERS.iter().position(|letter| letter == byte).map(|digit| digit as u32);
        let digits: Vec<u32> = text.as_bytes().iter().filter_map(digit).collect();
        let mut bytes = Vec::new();
        for group in digits.chunks(4) {
            let word = group.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - group.len()));
            bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
        }
        bytes
    }
}
