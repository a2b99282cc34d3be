//! Values kept in memory of their own: received into it, stored as it is, sent from it. An item refers to
//! its value by number.

use bytes::{Bytes, BytesMut};

enum Place {
    Value(Bytes),
    /// The next free place, `END` for none.
    Free(u32),
}

const END: u32 = u32::MAX;

/// What the allocator and the reference count add to a value: rounding to half a page, in the mean, and headers.
const ALLOCATION_BYTES: u64 = 2048 + 64;

pub struct LargeValues {
    places: Vec<Place>,
    free: u32,
    count: u64,
    bytes: u64,
}

impl LargeValues {
    pub fn new() -> LargeValues {
        LargeValues { places: Vec::new(), free: END, count: 0, bytes: 0 }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The values and what is needed to find them.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes + self.count * ALLOCATION_BYTES + (self.places.capacity() * size_of::<Place>()) as u64
    }

    pub fn get(&self, number: u32) -> &Bytes {
        match &self.places[number as usize] {
            Place::Value(value) => value,
            Place::Free(_) => unreachable!("items refer to values that are there"),
        }
    }

    /// Keeps `value`; `None` when there are no more numbers.
    pub fn put(&mut self, value: Bytes) -> Option<u32> {
        let number = match self.free {
            END => {
                let number = u32::try_from(self.places.len()).ok().filter(|&number| number != END)?;
                self.places.push(Place::Free(END));
                number
            }
            free => free,
        };
        self.count += 1;
        self.bytes += value.len() as u64;
        match std::mem::replace(&mut self.places[number as usize], Place::Value(value)) {
            Place::Free(next) => self.free = next,
            Place::Value(_) => unreachable!("the free places are chained"),
        }
        Some(number)
    }

    pub fn take(&mut self, number: u32) -> Bytes {
        match std::mem::replace(&mut self.places[number as usize], Place::Free(self.free)) {
            Place::Value(value) => {
                self.free = number;
                self.count -= 1;
                self.bytes -= value.len() as u64;
                value
            }
            Place::Free(_) => unreachable!("items refer to values that are there"),
        }
    }

    pub fn replace(&mut self, number: u32, value: Bytes) {
        self.bytes += value.len() as u64;
        match std::mem::replace(&mut self.places[number as usize], Place::Value(value)) {
            Place::Value(old) => self.bytes -= old.len() as u64,
            Place::Free(_) => unreachable!("items refer to values that are there"),
        }
    }

    /// Changes a value, in place unless a reply still holds on to it.
    pub fn edit(&mut self, number: u32, change: impl FnOnce(&mut BytesMut)) {
        let value = self.take(number);
        let mut value = value.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        change(&mut value);
        let again = self.put(value.freeze());
        debug_assert_eq!(again, Some(number), "the place freed last is used first");
    }

    /// Drops one value of a collection nobody refers to any more; false when none is left.
    pub fn dismantle(&mut self) -> bool {
        while let Some(place) = self.places.pop() {
            if let Place::Value(value) = place {
                self.count -= 1;
                self.bytes -= value.len() as u64;
                return true;
            }
        }
        false
    }

    #[cfg(any(test, fuzzing))]
    pub fn validate(&self) {
        let values = || {
            self.places.iter().filter_map(|place| match place {
                Place::Value(value) => Some(value),
                Place::Free(_) => None,
            })
        };
        assert_eq!(values().count() as u64, self.count);
        assert_eq!(values().map(|value| value.len() as u64).sum::<u64>(), self.bytes);
        let mut free = 0;
        let mut next = self.free;
        while next != END {
            free += 1;
            next = match self.places[next as usize] {
                Place::Free(next) => next,
                Place::Value(_) => panic!("a value in the chain of free places"),
            };
        }
        assert_eq!(free + values().count(), self.places.len());
    }
}
