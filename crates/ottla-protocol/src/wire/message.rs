//! The macro `message!`: declares a structure of the protocol and derives its encoding.

/// Declares a structure and implements [`Wire`](crate::wire::Wire) for it.
///
/// Each field is `name: Type [versions]`, followed by these options:
///
/// - `nullable [versions]`: the field is an `Option`, and only these versions allow null.
/// - `tag N`: the field is a tagged field (KIP-482).
/// - `= default`: the field's value if the version does not have the field.
///
/// The client and the broker encode and decode with the same declaration.
macro_rules! message {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $(
                $(#[$fmeta:meta])*
                $field:ident : $ty:ty [$versions:expr]
                $(nullable [$null:expr])? $(tag $tag:literal)? $(= $default:expr)? ;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
            /// Tagged fields that this crate does not know.
            pub unknown_tagged_fields: Vec<$crate::wire::RawTaggedField>,
        }

        impl Default for $name {
            fn default() -> Self {
                $name {
                    $( $field: $crate::wire::message!(@default $($default)?), )*
                    unknown_tagged_fields: Vec::new(),
                }
            }
        }

        impl $crate::wire::Wire for $name {
            #[allow(unused_variables)]
            fn encode(&self, w: &mut $crate::wire::Writer, v: $crate::wire::Version) {
                $( $crate::wire::message!(@plain [$($tag)?] {
                    if v.is_in_range(&($versions)) {
                        if $crate::wire::Wire::is_null(&self.$field)
                            && !$crate::wire::message!(@nullable v $([$null])?)
                        {
                            w.fail($crate::error::EncodeError::NullNotAllowed {
                                field: concat!(stringify!($name), ".", stringify!($field)),
                                version: v.number,
                            });
                        }
                        $crate::wire::Wire::encode(&self.$field, w, v);
                    }
                }); )*
                if v.flexible {
                    #[allow(unused_mut)]
                    let mut known: Vec<(u32, Vec<u8>)> = Vec::new();
                    $( $crate::wire::message!(@tagged [$($tag)?] t {
                        let default: $ty = $crate::wire::message!(@default $($default)?);
                        if v.is_in_range(&($versions)) && self.$field != default {
                            let mut field = $crate::wire::Writer::new();
                            $crate::wire::Wire::encode(&self.$field, &mut field, v);
                            match field.finish() {
                                Ok(bytes) => known.push((t, bytes)),
                                Err(e) => w.fail(e),
                            }
                        }
                    }); )*
                    $crate::wire::write_tagged_fields(w, known, &self.unknown_tagged_fields);
                }
            }

            #[allow(unused_variables, unused_mut)]
            fn decode(
                r: &mut $crate::wire::Reader<'_>,
                v: $crate::wire::Version,
            ) -> Result<Self, $crate::error::DecodeError> {
                let mut this = Self::default();
                $( $crate::wire::message!(@plain [$($tag)?] {
                    if v.is_in_range(&($versions)) {
                        let start = r.offset();
                        this.$field = $crate::wire::Wire::decode(r, v)
                            .map_err(|e| e.with_location(stringify!($name), stringify!($field)))?;
                        if $crate::wire::Wire::is_null(&this.$field)
                            && !$crate::wire::message!(@nullable v $([$null])?)
                        {
                            return Err($crate::error::DecodeError::new(
                                $crate::error::DecodeErrorKind::UnexpectedNull, start,
                            ).with_location(stringify!($name), stringify!($field)));
                        }
                    }
                }); )*
                if v.flexible {
                    let mut unknown = Vec::new();
                    $crate::wire::read_tagged_fields(r, &mut unknown, |tag, r| {
                        $( $crate::wire::message!(@tagged [$($tag)?] t {
                            if tag == t && v.is_in_range(&($versions)) {
                                this.$field =
                                    $crate::wire::Wire::decode(r, v).map_err(|e| {
                                        e.with_location(stringify!($name), stringify!($field))
                                    })?;
                                return Ok(true);
                            }
                        }); )*
                        Ok(false)
                    }).map_err(|e| e.with_location(stringify!($name), "tagged fields"))?;
                    this.unknown_tagged_fields = unknown;
                }
                Ok(this)
            }

            #[cfg(any(test, fuzzing, feature = "arbitrary"))]
            #[allow(unused_variables, unused_mut)]
            fn arbitrary(g: &mut $crate::wire::TestRng, v: $crate::wire::Version) -> Self {
                let mut this = Self::default();
                $( if v.is_in_range(&($versions)) {
                    loop {
                        this.$field = $crate::wire::Wire::arbitrary(g, v);
                        if !$crate::wire::Wire::is_null(&this.$field)
                            || $crate::wire::message!(@nullable v $([$null])?)
                        {
                            break;
                        }
                    }
                } )*
                if v.flexible && g.next_below(8) == 0 {
                    this.unknown_tagged_fields.push($crate::wire::RawTaggedField {
                        tag: 1000 + g.next_below(1000) as u32,
                        bytes: g.next_bytes(),
                    });
                }
                this
            }
        }
    };

    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@nullable $v:ident) => { false };
    (@nullable $v:ident [$null:expr]) => { $v.is_in_range(&($null)) };
    (@plain [] $body:block) => { $body };
    (@plain [$tag:literal] $body:block) => {};
    (@tagged [] $t:ident $body:block) => {};
    (@tagged [$tag:literal] $t:ident $body:block) => {
        #[allow(unused_braces)]
        { let $t: u32 = $tag; $body }
    };
}
pub(crate) use message;
