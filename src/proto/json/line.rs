//! What a line may say, as types: whatever reads into them is right in its fields, and nothing else reads.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Number;

/// The name of a key, a channel, a namespace; a value that is text.
type Text = String;

/// A field that may be left out, but is not null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

macro_rules! requests {
    ($($(#[$doc:meta])* $action:literal $name:ident { $($needed:ident: $needed_type:ty),* ; $($optional:ident: $optional_type:ty),* })*) => {
        /// One line from a client.
        #[derive(serde::Deserialize, Debug, PartialEq)]
        #[serde(tag = "action", deny_unknown_fields)]
        pub(super) enum Request {$(
            $(#[$doc])*
            #[serde(rename = $action)]
            $name {
                $($needed: $needed_type,)*
                $(#[serde(default, deserialize_with = "given")] $optional: Option<$optional_type>,)*
                #[serde(default, deserialize_with = "given")]
                namespace: Option<Text>,
                #[serde(default, deserialize_with = "given")]
                id: Option<IdValue>,
            },
        )*}

        impl Request {
            /// What it wants echoed, and the namespace its keys are in.
            pub(super) fn take_envelope(&mut self) -> (Option<IdValue>, Option<Text>) {
                match self {
                    $(Request::$name { id, namespace, .. } => (id.take(), namespace.take()),)*
                }
            }
        }
    };
}

requests! {
    "AUTH" Auth { token: Text; name: Text }
    "DEL" Del { ; key: Text, keys: Vec<Text> }
    "EXISTS" Exists { ; key: Text, keys: Vec<Text> }
    "EXPIRE" Expire { key: Text, ttl: Whole; }
    "GET" Get { key: Text; fill: Whole, stale: Whole }
    "INCR" Incr { key: Text; by: Whole }
    "MGET" MGet { keys: Vec<Text>; }
    "MSET" MSet { values: BTreeMap<Text, Value>; }
    "PING" Ping { ; }
    "PUBLISH" Publish { channel: Text; message: Text, message_b64: Text }
    "SET" Set { key: Text; value: Text, value_b64: Text, ttl: Whole, fill: Text }
    "STATS" Stats { ; }
    "SUBSCRIBE" Subscribe { ; channel: Text, channels: Vec<Text> }
    "TTL" Ttl { key: Text; }
    "UNSUBSCRIBE" Unsubscribe { ; channel: Text, channels: Vec<Text> }
}

/// A whole number as commands take them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Whole(pub(super) i64);

/// Below it every whole number is exact also as a float: `60.0` and `6e1` are 60.
const EXACT_BELOW: f64 = (1u64 << 53) as f64;

/// What the message of an error begins with when a number is right but for its size.
pub(super) const OUT_OF_RANGE: &str = "number out of range";

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Whole, D::Error> {
        // A number too long for 64 bits is none with a fraction.
        let number = Number::deserialize(deserializer)?;
        match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(Whole(whole)),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < EXACT_BELOW => Ok(Whole(float as i64)),
            (None, Some(float)) if float.abs() < i64::MAX as f64 => {
                Err(D::Error::custom(format!("invalid type: {number}, expected a whole number")))
            }
            _ => Err(D::Error::custom(OUT_OF_RANGE)),
        }
    }
}

/// An `id` as it came: a string or a number.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum IdValue {
    Text(String),
    Number(Number),
}

impl<'de> Deserialize<'de> for IdValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IdValue, D::Error> {
        struct Of;
        impl Visitor<'_> for Of {
            type Value = IdValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a number as `id`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<IdValue, E> {
                Ok(IdValue::Text(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<IdValue, E> {
                Ok(IdValue::Number(number.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<IdValue, E> {
                Ok(IdValue::Number(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<IdValue, E> {
                Number::from_f64(number).map(IdValue::Number).ok_or_else(|| E::custom(OUT_OF_RANGE))
            }
        }
        deserializer.deserialize_any(Of)
    }
}

/// A value among others: text, or `{"value_b64":"…"}` as replies write bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Base64(String),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"value_b64\":\"…\"}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
                Ok(Value::Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                const FIELDS: &[&str] = &["value_b64"];
                let mut value = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name != FIELDS[0] {
                        return Err(A::Error::unknown_field(&name, FIELDS));
                    }
                    if value.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(FIELDS[0]));
                    }
                }
                value.map(Value::Base64).ok_or_else(|| A::Error::missing_field(FIELDS[0]))
            }
        }
        deserializer.deserialize_any(Of)
    }
}
