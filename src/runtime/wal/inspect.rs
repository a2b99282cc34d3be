//! `crabcache wal inspect PATH` and `crabcache wal verify PATH`: what the files of a log hold, and whether they are
//! sound. PATH is a data directory or a layout in it. Reads, and changes nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::directory::{self, Layout, file_name};
use crate::wal::reader::{Item, Place, Walker};
use crate::wal::record::{Content, cores_in};

const USAGE: &str = "usage: crabcache wal inspect PATH | crabcache wal verify PATH\n\
                     PATH is a data directory, or one log-NNNNNN in it";
const EXIT_DAMAGED: u8 = 1;
const EXIT_USAGE: u8 = 2;
/// So much of a key or value is shown.
const SHOWN_BYTES: usize = 40;

/// Carries out what stands behind `crabcache wal`.
pub fn run(args: &[String]) -> ExitCode {
    let [verb, path] = args else { return usage() };
    let shows = match verb.as_str() {
        "inspect" => true,
        "verify" => false,
        _ => return usage(),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let sound = layout_of(Path::new(path)).and_then(|layout| examine(&layout, shows, &mut out));
    // Whoever closes the pipe has seen enough.
    let _ = out.flush();
    match sound {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_DAMAGED),
        Err(why) => {
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::from(EXIT_DAMAGED)
        }
    }
}

fn usage() -> ExitCode {
    let _ = writeln!(io::stderr(), "{USAGE}");
    ExitCode::from(EXIT_USAGE)
}

fn layout_of(path: &Path) -> Result<Layout, String> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.strip_prefix("log-").and_then(|rest| rest.trim_end_matches(".new").parse().ok()) {
        Some(number) => directory::read_layout(number, path.to_owned(), Vec::new(), true),
        None => directory::newest_layout(path, true)?.ok_or_else(|| format!("{} holds no log", path.display())),
    }
}

/// Whether everything in it can be read.
fn examine(layout: &Layout, shows: bool, out: &mut impl Write) -> Result<bool, String> {
    let failed = |error: io::Error| error.to_string();
    let mut sound = layout.unreadable.is_empty();
    writeln!(out, "{}: layout {}, {} cores", layout.path.display(), layout.number, layout.cores).map_err(failed)?;
    for path in &layout.unreadable {
        writeln!(out, "{}: the header is damaged", path.display()).map_err(failed)?;
    }
    for core in 0..layout.cores {
        let Some(segments) = layout.segments.get(&core) else {
            sound = false;
            writeln!(out, "core {core}: its files are missing").map_err(failed)?;
            continue;
        };
        let mut walker = Walker::new(segments.clone(), true);
        let shown = |place: Place| format!("{} byte {}", file_name(core, place.file), place.offset);
        if shows {
            for segment in walker.segments() {
                let header = &segment.header;
                let first = segment.first.map_or("none yet".into(), |first| first.to_string());
                writeln!(
                    out,
                    "core {core}: {} is segment {}: {} bytes, created {}, first record {first}, needed from {}",
                    file_name(core, segment.file),
                    header.number,
                    header.segment_bytes,
                    header.created_ms,
                    header.oldest_needed
                )
                .map_err(failed)?;
            }
        }
        let mut loaded: Option<(usize, Vec<u8>)> = None;
        while let Some(wanted) = walker.wanted() {
            if loaded.as_ref().is_none_or(|(index, _)| *index != wanted) {
                let path: PathBuf = layout.path.join(file_name(core, walker.segments()[wanted].file));
                let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                loaded = Some((wanted, bytes));
            }
            let bytes = &loaded.as_ref().expect("just loaded").1;
            let stepped = walker.step(bytes, usize::MAX, &mut |item| {
                if shows {
                    let _ = match item {
                        Item::Gap => writeln!(out, "  --- records are missing"),
                        Item::Record(record, place) => writeln!(
                            out,
                            "  {} {} {}{}",
                            shown(place),
                            record.sequence,
                            describe(&record.content),
                            if record.more { " +" } else { "" }
                        ),
                    };
                }
            });
            if let Err(damage) = stepped {
                sound = false;
                writeln!(out, "core {core}: {damage:?}").map_err(failed)?;
                break;
            }
        }
        let first_needed = walker.segments().iter().map(|segment| segment.header.oldest_needed).max();
        if walker.wanted().is_some() {
            continue;
        }
        let found = walker.finish().map_err(|damage| format!("core {core}: {damage:?}"))?;
        for lost in &found.lost {
            sound = false;
            let (first, next) = lost.sequences;
            writeln!(
                out,
                "core {core}: damaged from {} to {}: records {first} to {} are lost",
                shown(lost.from),
                shown(lost.to),
                next - 1
            )
            .map_err(failed)?;
        }
        if found.begins_too_late() {
            sound = false;
            let needed = first_needed.unwrap_or(1).max(1);
            match found.records {
                0 => writeln!(out, "core {core}: nothing can be read, and record {needed} is needed"),
                _ => writeln!(out, "core {core}: begins with record {}, and {needed} is needed", found.first),
            }
            .map_err(failed)?;
        }
        let end = match found.end {
            _ if found.is_clean => "ended in order".to_owned(),
            Some((place, 0)) => format!("ends at {}: not ended in order", shown(place)),
            Some((place, groups)) => format!("ends at {}: {groups} groups behind it were never promised", shown(place)),
            None => "empty".to_owned(),
        };
        writeln!(
            out,
            "core {core}: {} records, {} to {}, needed from {}; {end}",
            found.records,
            found.first,
            found.next_sequence.saturating_sub(1),
            found.horizon.max(1)
        )
        .map_err(failed)?;
    }
    writeln!(out, "{}", if sound { "sound" } else { "damaged" }).map_err(failed)?;
    Ok(sound)
}

fn describe(content: &Content<'_>) -> String {
    let expiry = |at: &Option<u64>| at.map_or(String::new(), |at| format!(" until {at}"));
    match content {
        Content::Group { durable, unix_ms, settled, confirmed } => format!(
            "group at {unix_ms}, durable up to {durable}, transactions whole up to {settled}, known to be up to {confirmed}"
        ),
        Content::Begin { id, cores } => {
            let cores: Vec<String> = cores_in(cores).map(|core| core.to_string()).collect();
            format!("begin transaction {:x}.{} on cores {}", id.origin, id.number, cores.join(", "))
        }
        Content::Finish { id } => format!("finish transaction {:x}.{}", id.origin, id.number),
        Content::Set { key, value, expires_at_ms } => {
            format!("set {} = {}{}", short(key), short(value), expiry(expires_at_ms))
        }
        Content::SetLarge { key, expires_at_ms, value_bytes } => {
            format!("set {} = {value_bytes} bytes in parts{}", short(key), expiry(expires_at_ms))
        }
        Content::Part(bytes) => format!("part of {} bytes", bytes.len()),
        Content::Remove { key } => format!("remove {}", short(key)),
        Content::Expire { key, expires_at_ms } => match expires_at_ms {
            Some(at) => format!("expire {} at {at}", short(key)),
            None => format!("persist {}", short(key)),
        },
        Content::Append { key, tail } => format!("append {} {}", short(key), short(tail)),
        Content::Flush => "flush".into(),
        Content::Horizon { sequence } => format!("needed from {sequence}"),
        Content::End => "end".into(),
        Content::Foreign(code) => format!("type {code}, unknown"),
    }
}

fn short(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(SHOWN_BYTES)].escape_ascii();
    let more = if bytes.len() > SHOWN_BYTES { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{shown}\"{more}")
}
