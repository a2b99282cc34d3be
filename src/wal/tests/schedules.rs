use super::super::reader::{Damage, Walker};
use super::super::segment::Header;
use super::super::writer::{Failure, Operation, Work, Writer};
use super::disk::Disk;
use super::life::{Effect, Keys, Life, Recovered, config, recover, resume, segments, walk};
use super::seeds;
use crate::clock::Now;
use crate::limits::LARGE_VALUE_BYTES_MIN;
use crate::random::{Announced, Random};

const SEGMENT_BYTES: u64 = 128 * 1024;
const START: Now = Now { unix_ms: 1_700_000_000_000, unix_us_part: 0, uptime_us: 0 };

fn random_effect(random: &mut Random, keys: usize) -> Effect {
    let key = format!("key:{}", random.below(keys)).into_bytes();
    match random.below(100) {
        0 => Effect::Flush,
        1..10 => Effect::Remove(key),
        10..20 => Effect::Expire(key, random.chance(50).then(|| 1 + random.next() % 1000)),
        20..30 => Effect::Append(key, vec![b'a'; random.below(30)]),
        30..33 => {
            let byte = random.next() as u8;
            Effect::Set(key, vec![byte; LARGE_VALUE_BYTES_MIN + random.below(100_000)], None)
        }
        _ => {
            let byte = random.next() as u8;
            Effect::Set(key, vec![byte; random.below(2_000)], random.chance(20).then(|| 1 + random.next() % 1000))
        }
    }
}

/// Some lives in a row on one disk, each ended by a kill, a power cut, a failing sync or in order.
fn run_schedule(seed: u64) {
    let _announced = Announced(seed);
    let mut random = Random::new(seed);
    let mut disk = Disk::default();
    let sync = random.chance(60);
    let interval = random.pick(&[None, Some(20), Some(200)]);
    let mut now = START;
    for _ in 0..2 + random.below(4) {
        let recovered = recover(&disk, false).unwrap_or_else(|damage| panic!("{damage:?}"));
        disk.sync_all();
        let mut life = Life::begin(config(SEGMENT_BYTES, interval), recovered, now, sync);
        if random.chance(15) {
            disk.failing_sync = Some(disk.syncs + 1 + random.below(60));
        }
        if random.chance(10) {
            disk.failing_write = Some(disk.writes + 1 + random.below(60));
        }
        disk.space_bytes = random.chance(20).then(|| disk.bytes() + random.below(6 * SEGMENT_BYTES as usize));
        let keys = random.pick(&[3, 30, 200]);
        for _ in 0..random.below(400) {
            if !life.writer.is_overfull() && !life.writer.refuses() && random.chance(70) {
                let len = if random.chance(10) { 2 + random.below(4) } else { 1 };
                life.log((0..len).map(|_| random_effect(&mut random, keys)).collect());
                life.compact();
            }
            for _ in 0..random.below(4) {
                life.turn(&mut disk, &mut random);
            }
            if disk.space_bytes.is_some() && random.chance(3) {
                disk.space_bytes = None;
            }
        }
        disk.space_bytes = None;
        (disk.failing_sync, disk.failing_write) = (None, None);
        let durable = life.writer.durable();
        let in_order = random.chance(20) && life.writer.failure().is_none();
        if in_order {
            let group = life.writer.sync_all();
            life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
            let group = life.writer.finish(life.now);
            life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group && !writer.is_busy());
        } else {
            let under_way: Vec<_> = life.out.drain(..).map(|operation| operation.work).collect();
            if random.chance(30) {
                disk.kill(&under_way, &mut random);
            } else {
                disk.cut_power(&under_way, &mut random);
            }
        }
        let recovered = recover(&disk, false).unwrap_or_else(|damage| panic!("{damage:?}"));
        if in_order {
            assert_eq!(recovered.keys, life.keys);
            assert!(recovered.found.is_clean);
        } else {
            assert!(life.may_leave(&recovered.keys, durable), "{:?}", recovered.found);
        }
        // Recovery itself may be cut short as often as it likes: it changes nothing.
        assert_eq!(recover(&disk, false).unwrap_or_else(|damage| panic!("{damage:?}")).keys, recovered.keys);
        now = Now { unix_ms: life.now.unix_ms + 1000, ..START };
    }
}

#[test]
fn no_crash_takes_what_was_durable_nor_tears_what_was_not() {
    for seed in seeds(200, 20_000) {
        run_schedule(seed);
    }
}

/// A start was refused because the log began too late: of two segments without a sync the power cut took the first;
/// or a file was used again that alone said that what had been removed was not needed.
#[test]
fn a_log_that_lost_nothing_begins_in_time() {
    for seed in [2953, 2714, 4790] {
        run_schedule(seed);
    }
}

/// A log of two segments, and nothing of it was ever synced.
fn unsynced_log() -> (Disk, Life) {
    let mut random = Random::new(15);
    let mut disk = Disk::default();
    let mut life = Life::begin(config(SEGMENT_BYTES, None), recover(&disk, false).unwrap(), START, false);
    life.log(vec![Effect::Set(b"key".to_vec(), vec![1; 3 * SEGMENT_BYTES as usize / 2], None)]);
    while segments(&disk).iter().filter(|segment| segment.first.is_some()).count() < 2 {
        life.turn(&mut disk, &mut random);
        assert_eq!(life.writer.durable(), 0);
    }
    (disk, life)
}

#[test]
fn a_lost_beginning_is_damage_only_if_it_was_durable() {
    let is_first = |disk: &Disk| segments(disk).iter().map(|segment| segment.first).collect::<Vec<_>>();
    let (mut disk, _) = unsynced_log();
    disk.flip(0, 4096 + 30, 1);
    assert!(matches!(is_first(&disk)[..], [None, Some(2..), ..]));
    for salvage in [false, true] {
        let Recovered { keys, found, .. } = recover(&disk, salvage).unwrap();
        assert!(keys.is_empty() && found.next_sequence == 1 && found.lost.is_empty());
        assert!(found.end.unwrap().1 > 0, "groups behind it are dropped");
    }

    let (mut disk, mut life) = unsynced_log();
    let mut random = Random::new(16);
    let group = life.writer.sync_all();
    life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
    life.log(vec![Effect::Set(b"other".to_vec(), b"value".to_vec(), None)]);
    let group = life.writer.sync_all();
    life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
    disk.flip(0, 4096 + 30, 1);
    assert!(matches!(recover(&disk, false), Err(Damage::Lost(_))));
    assert_eq!(recover(&disk, true).unwrap().found.lost.len(), 1);
    disk.forget(0);
    assert!(matches!(recover(&disk, false), Err(Damage::Beginning { needed: 1, first: Some(2..), .. })));
    assert_eq!(recover(&disk, true).unwrap().found.lost.len(), 1);
}

/// Removed files leave a beginning that a header explains, also when nothing is written afterwards.
#[test]
fn what_is_given_up_is_removed_and_missed_by_nobody() {
    let mut random = Random::new(17);
    let mut disk = Disk::default();
    let mut life = Life::begin(config(SEGMENT_BYTES, None), recover(&disk, false).unwrap(), START, true);
    for key in 0..200 {
        life.log(vec![Effect::Set(format!("key:{key}").into_bytes(), vec![1; 10_000], None)]);
        life.turn_until(&mut disk, &mut random, |writer| !writer.is_overfull());
    }
    assert!(disk.files().count() > 10);
    life.log(vec![Effect::Flush]);
    for _ in 0..1_000 {
        life.turn(&mut disk, &mut random);
        assert!(recover(&disk, false).is_ok());
    }
    assert!(disk.files().count() <= 4, "{}", disk.files().count());
    assert!(recover(&disk, false).unwrap().keys.is_empty());
    // Where nothing can be read but headers, they say that something is missing.
    let lengths: Vec<(u32, usize)> = disk.files().map(|(file, bytes)| (file, bytes.len())).collect();
    for (file, bytes) in lengths {
        (4096..bytes).step_by(4096).for_each(|block| disk.flip(file, block, 1));
    }
    assert!(matches!(recover(&disk, false), Err(Damage::Beginning { needed: 2.., first: None, .. })));
    assert!(recover(&disk, true).unwrap().keys.is_empty());
}

/// In steady churn the files stay below twice what is alive and two segments.
#[test]
fn the_log_stays_short_while_keys_are_overwritten() {
    for (seed, keys, value_bytes) in [(1, 5, 100), (2, 400, 1_000), (3, 2_000, 300), (4, 6_000, 100)] {
        let _announced = Announced(seed);
        let mut random = Random::new(seed);
        let mut disk = Disk::default();
        let mut life = Life::begin(config(SEGMENT_BYTES, None), recover(&disk, false).unwrap(), START, false);
        let put = |life: &mut Life, key: usize, byte: u8| {
            life.log(vec![Effect::Set(format!("key:{key:06}").into_bytes(), vec![byte; value_bytes], None)]);
        };
        for key in 0..keys {
            put(&mut life, key, 0);
            life.compact();
            life.turn_until(&mut disk, &mut random, |writer| !writer.is_overfull());
        }
        // One segment for what is under way: half of one waits to be written here at any time.
        let bound = 2 * life.live_bytes() + 3 * SEGMENT_BYTES;
        let mut written = 0;
        while written < 4 * life.live_bytes() + 4 * SEGMENT_BYTES {
            for _ in 0..4 {
                // The very same value again and again is the hardest: old and new look alike.
                put(&mut life, random.below(keys), 1);
                written += value_bytes as u64;
            }
            life.compact();
            for _ in 0..4 {
                life.turn(&mut disk, &mut random);
            }
            life.turn_until(&mut disk, &mut random, |writer| !writer.is_overfull());
            assert!(
                disk.bytes() as u64 <= bound,
                "{} of {bound} bytes with {keys} keys of {value_bytes}",
                disk.bytes()
            );
        }
        let group = life.writer.sync_all();
        life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
        assert_eq!(recover(&disk, false).unwrap().keys, life.keys);
    }
}

/// A log of a few groups, ended in order.
fn small_log(random: &mut Random) -> (Disk, Life) {
    let mut disk = Disk::default();
    let mut life = Life::begin(config(16 * 1024, None), recover(&disk, false).unwrap(), START, true);
    for number in 0..7 {
        let value = vec![number as u8; 1 + random.below(900)];
        life.log(vec![Effect::Set(format!("key:{number}").into_bytes(), value, None)]);
        let group = life.writer.open_number();
        life.turn_until(&mut disk, random, |writer| writer.durable() >= group);
    }
    let group = life.writer.finish(life.now);
    life.turn_until(&mut disk, random, |writer| writer.durable() >= group && !writer.is_busy());
    (disk, life)
}

/// Every byte of a log that ended in order, flipped: it is refused, or it made no difference.
#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    let mut random = Random::new(9);
    let (mut disk, life) = small_log(&mut random);
    let places: Vec<(u32, usize)> =
        disk.files().flat_map(|(file, bytes)| (0..bytes.len()).map(move |offset| (file, offset))).collect();
    let (mut refused, mut harmless, mut ends) = (0, 0, 0);
    for (file, offset) in places {
        let mask = 1 << random.below(8);
        disk.flip(file, offset, mask);
        match recover(&disk, false) {
            Err(Damage::Lost(_) | Damage::Beginning { .. }) => refused += 1,
            Err(damage) => panic!("{damage:?}"),
            // The header of a segment in use is seen by whoever lists the files; the record that says the end is
            // in order is itself the last.
            Ok(recovered) if offset < 4096 => assert!(life.may_leave(&recovered.keys, 0)),
            Ok(recovered) => {
                assert_eq!(recovered.keys, life.keys, "byte {offset} of file {file}");
                harmless += recovered.found.is_clean as u32;
                ends += !recovered.found.is_clean as u32;
            }
        }
        // What verifies is kept, and nothing that was not written is made up.
        let salvaged = recover(&disk, true).unwrap_or_else(|damage| panic!("{damage:?}"));
        assert!(salvaged.keys.iter().all(|(key, value)| life.keys.get(key) == Some(value)));
        disk.flip(file, offset, mask);
    }
    assert!(refused > 2_000 && harmless > 10_000 && ends < 100, "{refused} {harmless} {ends}");
}

/// The first record of the only segment: without it nothing is found, and that is not an empty log.
#[test]
fn a_damaged_beginning_is_no_empty_log() {
    let mut random = Random::new(13);
    let mut disk = Disk::default();
    let mut life = Life::begin(config(SEGMENT_BYTES, None), recover(&disk, false).unwrap(), START, true);
    for number in 0..3 {
        life.log(vec![Effect::Set(format!("key:{number}").into_bytes(), b"value".to_vec(), None)]);
        let group = life.writer.open_number();
        life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
    }
    disk.flip(0, 4096 + 40, 1);
    assert!(matches!(recover(&disk, false), Err(Damage::Lost(_))));
    assert_eq!(recover(&disk, true).unwrap().keys.len(), 2);
}

#[test]
fn a_missing_segment_is_found() {
    let mut random = Random::new(10);
    let (disk, _) = small_log(&mut random);
    let found = recover(&disk, false).unwrap().found;
    assert!(found.chain.len() >= 3);
    for &(file, _) in &found.chain[..found.chain.len() - 1] {
        let (mut disk, _) = small_log(&mut Random::new(10));
        disk.forget(file);
        assert!(recover(&disk, false).is_err(), "file {file}");
    }
}

#[test]
fn a_full_disk_is_waited_out() {
    let mut random = Random::new(11);
    let mut disk = Disk::default();
    disk.space_bytes = Some(3 * SEGMENT_BYTES as usize);
    let mut life = Life::begin(config(SEGMENT_BYTES, None), recover(&disk, false).unwrap(), START, true);
    let mut number = 0;
    while !life.writer.refuses() {
        number += 1;
        life.log(vec![Effect::Set(format!("key:{number}").into_bytes(), vec![1; 1000], None)]);
        life.turn(&mut disk, &mut random);
        assert!(number < 10_000);
    }
    // What was taken before has its place.
    let group = life.writer.sync_all();
    life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
    assert!(life.writer.refuses() && life.writer.failure().is_none());
    disk.space_bytes = None;
    life.turn_until(&mut disk, &mut random, |writer| !writer.refuses());
    life.log(vec![Effect::Remove(b"key:1".to_vec())]);
    let group = life.writer.open_number();
    life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
    assert_eq!(recover(&disk, false).unwrap().keys, life.keys);
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let mut random = Random::new(12);
    let mut disk = Disk::default();
    disk.failing_sync = Some(4);
    let mut life = Life::begin(config(SEGMENT_BYTES, None), recover(&disk, false).unwrap(), START, true);
    for number in 0..20 {
        life.log(vec![Effect::Set(format!("key:{number}").into_bytes(), vec![1; 10], None)]);
        for _ in 0..20 {
            life.turn(&mut disk, &mut random);
        }
    }
    assert_eq!(life.writer.failure(), Some("a sync failed"));
    assert!(life.writer.refuses());
    let (syncs, durable) = (disk.syncs, life.writer.durable());
    for _ in 0..1000 {
        life.turn(&mut disk, &mut random);
    }
    assert_eq!((disk.syncs, life.writer.durable()), (syncs, durable));
    disk.cut_power(&[], &mut random);
    assert!(life.may_leave(&recover(&disk, false).unwrap().keys, durable));
}

/// A log that was cut and has gone on was refused as beginning too late, once the segment with the cut had been used again
/// and one of those that were dropped had not.
#[test]
fn what_was_dropped_is_no_beginning() {
    let mut random = Random::new(14);
    let (mut disk, _) = small_log(&mut random);
    let walker = Walker::new(segments(&disk), false).until(Some(3));
    let found = walk(&disk, walker, &mut |_| {}).unwrap().finish().unwrap();
    assert!(found.is_cut && !found.dropped.is_empty());
    let (first, _) = found.chain[0];
    let resumed = resume(&disk, &found);
    let recovered = Recovered { keys: Keys::new(), found, resumed };
    let mut life = Life::begin(config(16 * 1024, None), recovered, START, true);
    life.log(vec![Effect::Set(b"new".to_vec(), b"life".to_vec(), None)]);
    let group = life.writer.open_number();
    life.turn_until(&mut disk, &mut random, |writer| writer.durable() >= group);
    let reused = Header { number: 99, oldest_needed: 3, ..segments(&disk)[0].header };
    disk.carry_out(&Work::Prepare { file: first, create: false, header: reused.to_block() }).unwrap();
    let walker = Walker::new(segments(&disk), false);
    let begun = walker.segments().iter().filter(|segment| segment.first.is_some());
    let newest = begun.map(|segment| segment.header.number).max();
    let wanted = walker.wanted().map(|at| walker.segments()[at].header.number);
    assert_eq!(wanted, newest, "where the log has gone on, not what was dropped");
}

/// What the writer wants done now.
fn wanted(life: &mut Life) -> Vec<Operation> {
    life.now.uptime_us += 1;
    std::iter::from_fn(|| life.writer.poll(life.now)).collect()
}

fn one_set(life: &mut Life, number: usize) {
    life.log(vec![Effect::Set(format!("key:{number}").into_bytes(), vec![1; 100], None)]);
}

fn is_write(operation: &Operation, durably: bool) -> bool {
    matches!(operation.work, Work::Write { durable, .. } if durable == durably)
}

/// A log whose first segment is there.
fn ready_log(sync: bool) -> (Disk, Life) {
    let mut disk = Disk::default();
    let mut life = Life::begin(config(SEGMENT_BYTES, None), recover(&disk, false).unwrap(), START, sync);
    life.turn_until(&mut disk, &mut Random::new(1), Writer::is_ready);
    assert!(life.out.is_empty());
    (disk, life)
}

#[test]
fn a_group_that_is_waited_for_is_one_operation() {
    let (mut disk, mut life) = ready_log(true);
    for number in 1..8 {
        one_set(&mut life, number);
        let operation = wanted(&mut life).pop().expect("a write");
        assert!(is_write(&operation, true), "{operation:?}");
        // What comes meanwhile is the next group.
        one_set(&mut life, 0);
        assert!(wanted(&mut life).is_empty());
        let group = life.writer.open_number() - 1;
        let result = disk.carry_out(&operation.work);
        life.writer.completed(operation.id, operation.work, result, life.now);
        assert_eq!(life.writer.durable(), group);
        let operation = wanted(&mut life).pop().expect("the next group");
        let result = disk.carry_out(&operation.work);
        life.writer.completed(operation.id, operation.work, result, life.now);
        disk.cut_power(&[], &mut Random::new(number as u64));
        assert_eq!(recover(&disk, false).unwrap().keys, life.keys);
    }
}

/// That a write is durable says nothing of those before it.
#[test]
fn a_group_behind_one_that_was_not_synced_is_synced_with_it() {
    let (mut disk, mut life) = ready_log(false);
    one_set(&mut life, 1);
    life.now.uptime_us += 10;
    let first = wanted(&mut life).pop().expect("its delay is over");
    assert!(is_write(&first, false));
    let result = disk.carry_out(&first.work);
    life.writer.completed(first.id, first.work, result, life.now);
    one_set(&mut life, 2);
    let group = life.writer.want_sync();
    let mut kinds = Vec::new();
    while life.writer.durable() < group {
        for operation in wanted(&mut life) {
            kinds.push(matches!(operation.work, Work::Sync { .. }));
            assert!(!is_write(&operation, true));
            let result = disk.carry_out(&operation.work);
            life.writer.completed(operation.id, operation.work, result, life.now);
        }
    }
    assert_eq!(kinds, [false, true]);
    disk.cut_power(&[], &mut Random::new(3));
    assert_eq!(recover(&disk, false).unwrap().keys, life.keys);
}

/// A write that should have been durable, and found no space, may be there in part: it is made again, and then synced.
#[test]
fn a_durable_write_without_space_is_repeated_as_another_one() {
    let (mut disk, mut life) = ready_log(true);
    one_set(&mut life, 1);
    let operation = wanted(&mut life).pop().expect("a write");
    assert!(is_write(&operation, true));
    life.writer.completed(operation.id, operation.work, Err(Failure::NoSpace), life.now);
    assert!(life.writer.refuses() && life.writer.durable() == 0);
    assert!(wanted(&mut life).is_empty(), "the disk is left alone for a while");
    life.now.uptime_us += 10;
    let again = wanted(&mut life).pop().expect("the same once more");
    assert!(is_write(&again, false));
    let result = disk.carry_out(&again.work);
    life.writer.completed(again.id, again.work, result, life.now);
    assert!(life.writer.durable() == 0 && !life.writer.refuses());
    let sync = wanted(&mut life).pop().expect("a sync");
    assert!(matches!(sync.work, Work::Sync { .. }));
    let result = disk.carry_out(&sync.work);
    life.writer.completed(sync.id, sync.work, result, life.now);
    disk.cut_power(&[], &mut Random::new(4));
    assert_eq!(recover(&disk, false).unwrap().keys, life.keys);
}
