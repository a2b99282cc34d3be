//! The ways between cores: for each ordered pair a single-producer single-consumer ring of batches, and
//! one back. Doorbells (eventfds) wake only cores that sleep.
//!
//! ```text
//!            ── forward: batches to be served ──▶
//!   core A                                          core B
//!            ◀── back: the same boxes, answered ──
//! ```
//!
//! A core has at most `MESH_RING_BATCHES` boxes out to each other core and both rings hold that many, so
//! a push never finds a ring full and nobody ever waits for room. The way back has one place more, for the first
//! replies to a batch that is not done, which are sent only into an empty ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, RingBuffer};

use super::doorbell::Doorbell;
use crate::engine::batch::Batch;
use crate::engine::serving::Ways;

/// Whether a core is asleep, or about to be, and has to be rung. A cache line of its own each.
#[repr(align(128))]
#[derive(Default)]
struct Sleeping(AtomicBool);

struct Peer {
    forward: Producer<Box<Batch>>,
    inbound: Consumer<Box<Batch>>,
    back: Producer<Box<Batch>>,
    returned: Consumer<Box<Batch>>,
    /// Something was pushed since the peer's bell was last looked at.
    pushed: bool,
}

/// One core's end of the mesh.
pub struct MeshPort {
    core: usize,
    peers: Vec<Option<Peer>>,
    sleeping: Arc<[Sleeping]>,
    doorbells: Arc<[Doorbell]>,
}

/// A port for every core. Each ring holds `capacity` batches, which the outboxes must not exceed.
pub fn mesh(doorbells: &Arc<[Doorbell]>, capacity: usize) -> Vec<MeshPort> {
    let cores = doorbells.len();
    let sleeping: Arc<[Sleeping]> = (0..cores).map(|_| Sleeping::default()).collect();
    let port = |core| MeshPort {
        core,
        peers: (0..cores).map(|_| None).collect(),
        sleeping: sleeping.clone(),
        doorbells: doorbells.clone(),
    };
    let mut ports: Vec<MeshPort> = (0..cores).map(port).collect();
    for a in 0..cores {
        for b in a + 1..cores {
            let (a_forward, b_inbound) = RingBuffer::new(capacity);
            // One more than can be out: for a part of one.
            let (b_back, a_returned) = RingBuffer::new(capacity + 1);
            let (b_forward, a_inbound) = RingBuffer::new(capacity);
            let (a_back, b_returned) = RingBuffer::new(capacity + 1);
            ports[a].peers[b] = Some(Peer {
                forward: a_forward,
                inbound: a_inbound,
                back: a_back,
                returned: a_returned,
                pushed: false,
            });
            ports[b].peers[a] = Some(Peer {
                forward: b_forward,
                inbound: b_inbound,
                back: b_back,
                returned: b_returned,
                pushed: false,
            });
        }
    }
    ports
}

impl MeshPort {
    pub fn cores(&self) -> usize {
        self.peers.len()
    }

    fn peer(&mut self, core: usize) -> &mut Peer {
        self.peers[core].as_mut().expect("a core has no ring to itself")
    }

    /// Sends a batch to be served. There is room: see the module.
    pub fn forward(&mut self, core: usize, batch: Box<Batch>) {
        let peer = self.peer(core);
        peer.pushed = true;
        assert!(peer.forward.push(batch).is_ok(), "more batches out than the ring holds");
    }

    /// The next batch of ours that `core` has served.
    #[inline]
    pub fn returned(&mut self, core: usize) -> Option<Box<Batch>> {
        self.peers[core].as_mut()?.returned.pop().ok()
    }

    /// Whether anything waits for this core.
    #[inline]
    pub fn has_arrivals(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.inbound.is_empty() || !peer.returned.is_empty())
    }

    /// The core has to look at something other than a batch.
    pub fn tell(&mut self, core: usize) {
        if let Some(peer) = &mut self.peers[core] {
            peer.pushed = true;
        }
    }

    /// Rings the cores that sleep and have been sent something. Returns how many.
    pub fn ring_sleepers(&mut self) -> u64 {
        let mut rung = 0;
        for (core, peer) in self.peers.iter_mut().enumerate() {
            if let Some(peer) = peer
                && std::mem::take(&mut peer.pushed)
            {
                // Pairs with the fence in `fall_asleep`: either we see the flag, or the core sees the batch.
                fence(Ordering::SeqCst);
                let sleeping = &self.sleeping[core].0;
                if sleeping.load(Ordering::Relaxed) && sleeping.swap(false, Ordering::Relaxed) {
                    self.doorbells[core].ring();
                    rung += 1;
                }
            }
        }
        rung
    }

    /// Announces that this core is about to sleep. False when something has arrived meanwhile and it must
    /// not.
    pub fn fall_asleep(&self) -> bool {
        let sleeping = &self.sleeping[self.core].0;
        sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_arrivals() {
            sleeping.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub fn wake_up(&self) {
        self.sleeping[self.core].0.store(false, Ordering::Relaxed);
    }
}

impl Ways for MeshPort {
    #[inline]
    fn inbound(&mut self, core: usize) -> Option<Box<Batch>> {
        self.peers[core].as_mut()?.inbound.pop().ok()
    }

    fn has_room_for_part(&mut self, core: usize) -> bool {
        let back = &self.peer(core).back;
        back.slots() == back.buffer().capacity()
    }

    fn give_back(&mut self, core: usize, batch: Box<Batch>) {
        let peer = self.peer(core);
        peer.pushed = true;
        assert!(peer.back.push(batch).is_ok(), "more batches back than went out");
    }
}
