//! The parts of a turn, as the runtime takes them and in any order.

use std::collections::VecDeque;

use super::sockets::Receiving;
use super::{Core, World};
use crate::connection::Closing;
use crate::engine::batch::Batch;
use crate::engine::serving::Ways;

/// The ways of one core in the world.
struct WaysOf<'w> {
    forward: &'w mut [Vec<VecDeque<Box<Batch>>>],
    back: &'w mut [Vec<VecDeque<Box<Batch>>>],
    core: usize,
    in_flight_max: usize,
    events: u64,
    parts: u64,
    part_bytes_max: usize,
}

impl Ways for WaysOf<'_> {
    fn inbound(&mut self, core: usize) -> Option<Box<Batch>> {
        let batch = self.forward[core][self.core].pop_front()?;
        self.events += 1;
        Some(batch)
    }

    fn has_room_for_part(&mut self, core: usize) -> bool {
        self.back[core][self.core].is_empty()
    }

    fn give_back(&mut self, core: usize, batch: Box<Batch>) {
        self.events += 1;
        let is_part = batch.is_part();
        if is_part {
            self.parts += 1;
            self.part_bytes_max = self.part_bytes_max.max(batch.replies.len());
        }
        let way = &mut self.back[core][self.core];
        way.push_back(batch);
        // One place more, for a part.
        assert!(way.len() <= self.in_flight_max + 1, "the way back is full");
    }
}

impl World {
    pub(super) fn run(&mut self, core: usize) {
        let at = &mut self.cores[core];
        at.engine.run(&at.buffers);
        at.buffers.0.clear();
    }

    pub(super) fn resume(&mut self, core: usize) {
        let at = &mut self.cores[core];
        if at.engine.has_resumable() {
            self.events += 1;
            at.engine.resume(&at.buffers);
        }
    }

    pub(super) fn step_postponed(&mut self, core: usize) {
        let engine = &mut self.cores[core].engine;
        if engine.has_postponed() {
            self.events += 1;
            engine.step_postponed();
        }
    }

    pub(super) fn steer_exhausted(&mut self, core: usize) {
        for place in std::mem::take(&mut self.cores[core].exhausted) {
            self.events += 1;
            self.steer_input(core, place);
        }
    }

    pub(super) fn absorb(&mut self, core: usize, from: usize) -> bool {
        let Some(batch) = self.back[core][from].pop_front() else { return false };
        self.events += 1;
        self.cores[core].engine.absorb(from as u32, batch);
        true
    }

    pub(super) fn serve(&mut self, core: usize, origin: usize) -> bool {
        let Core { engine, serving, .. } = &mut self.cores[core];
        let mut ways = WaysOf {
            forward: &mut self.forward,
            back: &mut self.back,
            core,
            in_flight_max: self.bounds.mesh_in_flight_max,
            events: 0,
            parts: 0,
            part_bytes_max: 0,
        };
        serving.serve(engine, &mut ways, origin, 1);
        let (events, parts, part_bytes_max) = (ways.events, ways.parts, ways.part_bytes_max);
        self.events += events;
        self.parts += parts;
        self.part_bytes_max = self.part_bytes_max.max(part_bytes_max);
        events > 0
    }

    pub(super) fn ship(&mut self, core: usize, to: usize) -> bool {
        let Some(batch) = self.cores[core].engine.ship(to as u32) else { return false };
        self.events += 1;
        self.forward[core][to].push_back(batch);
        assert!(self.forward[core][to].len() <= self.bounds.mesh_in_flight_max, "the way there is full");
        true
    }

    pub(super) fn send_replies(&mut self, core: usize) {
        // Time passes, and theirs is over at some point.
        for place in self.cores[core].lingering.clone() {
            self.events += 1;
            if self.random.chance(30) {
                self.drop_connection(core, place, true);
            }
        }
        while let Some(place) = self.cores[core].engine.next_dirty() {
            let at = &mut self.cores[core];
            let Some(connection) = at.engine.connection(place) else { continue };
            let socket = &mut at.sockets[place as usize];
            if connection.closing != Closing::Now
                && socket.sending.is_none()
                && let Some(out) = at.engine.take_out(place)
            {
                self.events += 1;
                socket.sending = Some(out);
            }
            if at.engine.connection(place).is_some_and(|connection| connection.is_finished()) {
                self.drop_connection(core, place, true);
            } else {
                if let Some(connection) = at.engine.connection(place)
                    && connection.begins_to_linger()
                {
                    connection.lingers = true;
                    at.lingering.push(place);
                }
                self.steer_input(core, place);
            }
        }
        let at = &mut self.cores[core];
        for (place, socket) in at.sockets.iter().enumerate() {
            let wants_input = at.engine.connection(place as u32).is_none_or(|connection| connection.wants_input());
            assert!(wants_input || socket.receiving != Receiving::Armed, "more is put aside than there may be");
        }
    }

    /// A whole turn in the order of the runtime.
    pub fn turn(&mut self, core: usize) {
        let places = self.cores[core].sockets.len();
        let first = self.random.below(places.max(1));
        let mut has_happened = false;
        for place in (first..places).chain(0..first) {
            while (!has_happened || self.random.chance(50)) && self.socket_event(core, place as u32) {
                has_happened = true;
            }
        }
        self.run(core);
        if self.cores[core].engine.has_resumable() {
            self.resume(core);
            self.run(core);
        }
        self.step_postponed(core);
        self.steer_exhausted(core);
        for other in 0..self.bounds.cores {
            for _ in 0..2 {
                self.absorb(core, other);
                self.serve(core, other);
            }
        }
        for other in 0..self.bounds.cores {
            while self.ship(core, other) {}
        }
        self.send_replies(core);
    }

    /// Whether the runtime would give the core a turn without being rung.
    pub(super) fn is_awake(&self, core: usize) -> bool {
        let at = &self.cores[core];
        at.engine.has_resumable()
            || at.engine.has_postponed()
            || !at.exhausted.is_empty()
            || !at.lingering.is_empty()
            || at.serving.has_begun()
            || self.has_socket_events(core)
            || (0..self.bounds.cores)
                .any(|other| !self.forward[other][core].is_empty() || !self.back[core][other].is_empty())
    }

    /// One part of a turn, of a core and in an order that chance decides.
    pub fn step(&mut self) {
        let core = self.random.below(self.bounds.cores);
        let other = self.random.below(self.bounds.cores);
        match self.random.below(20) {
            0..=5 => {
                let places = self.cores[core].sockets.len();
                if places > 0 {
                    let place = self.random.below(places);
                    self.socket_event(core, place as u32);
                }
            }
            6 | 7 => self.run(core),
            8 => self.resume(core),
            9 => self.step_postponed(core),
            10 | 11 => {
                self.absorb(core, other);
            }
            12 | 13 => {
                self.serve(core, other);
            }
            14 | 15 => {
                self.ship(core, other);
            }
            16 | 17 => {
                // Replies are handed over only when everything received has been applied.
                self.run(core);
                self.send_replies(core);
            }
            18 => self.steer_exhausted(core),
            _ => {
                self.pass_time(10);
                self.cores[core].engine.tick(16);
            }
        }
        self.check(core);
    }

    /// Steps at random, then turns as the runtime takes them, until every client is content or gone.
    /// Cores take turns only when something wakes them: a reply that nobody would ever send is a failure.
    pub fn settle(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        for core in 0..self.bounds.cores {
            self.turn(core);
        }
        let is_over = |world: &World| {
            world
                .clients
                .iter()
                .all(|client| client.is_closed || client.is_content() && !client.has_shut_down || !client.reads)
        };
        for round in 0.. {
            let awake: Vec<usize> = (0..self.bounds.cores).filter(|&core| self.is_awake(core)).collect();
            if awake.is_empty() {
                break;
            }
            let before = self.events;
            for &core in &awake {
                self.turn(core);
                self.check(core);
            }
            assert!(self.events > before || round < 3, "cores are awake and nothing happens:\n{}", self.dump());
            assert!(round < 200_000, "no end in sight:\n{}", self.dump());
        }
        assert!(is_over(self), "all cores sleep and clients wait:\n{}", self.dump());
    }
}
