//! The names of a struct's fields, as serde knows them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The keys that `T`, a struct, can be read from.
pub fn field_names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(Probe { names: &mut names });
    names
}

/// A deserializer that only listens to which fields a struct asks for.
struct Probe<'a> {
    names: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Listened;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Listened> {
        Err(Listened)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Listened> {
        *self.names = fields;
        Err(Listened)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The end of listening; never shown.
#[derive(Debug)]
struct Listened;

impl fmt::Display for Listened {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("listened to the field names")
    }
}

impl std::error::Error for Listened {}

impl de::Error for Listened {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}
