//! JSON values for the property tests of every schema language.

use proptest::prelude::*;
use serde_json::Value;

/// Returns values that nest up to four levels. Strings come from `texts`, which is a pattern, and
/// from `leaves`; the fields of objects have these names.
pub(crate) fn any_json(
    texts: &'static str,
    leaves: Vec<Value>,
    names: &'static [&'static str],
) -> impl Strategy<Value = Value> {
    let scalars = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts.prop_map(Value::from),
    ];
    let leaf = match leaves.is_empty() {
        true => scalars.boxed(),
        false => prop_oneof![5 => scalars, 1 => prop::sample::select(leaves)].boxed(),
    };
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let name = prop::sample::select(names);
        let object = prop::collection::btree_map(name, inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            object.prop_map(|o| o.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}
