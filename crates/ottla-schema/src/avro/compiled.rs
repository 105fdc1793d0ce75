//! An Avro schema prepared for encoding JSON: references are indices, defaults are encoded.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::{FixedSchema, InnerDecimalSchema, Name, RecordSchema, UuidSchema};

use super::encode::encode_json;
use crate::error::SchemaError;
use crate::value_path::ValuePath;

/// Index of a node in [`CompiledSchema::nodes`].
pub(super) type NodeId = usize;

/// What a node demands of a value.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    String,
    Bytes,
    Uuid,
    /// A UUID in 16 bytes; with a length before them if the type is `bytes`.
    UuidBytes {
        has_length: bool,
    },
    Fixed {
        name: String,
        size: usize,
    },
    /// `size` is that of a fixed.
    Decimal {
        precision: usize,
        scale: usize,
        size: Option<usize>,
    },
    Enum {
        name: String,
        symbols: Vec<String>,
    },
    Array(NodeId),
    Map(NodeId),
    Union(Vec<Branch>),
    Record {
        name: String,
        fields: Vec<Field>,
    },
}

#[derive(Debug)]
pub(super) struct Branch {
    /// The name in Avro's JSON encoding: that of the type, or the full name.
    pub(super) name: String,
    pub(super) node: NodeId,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) node: NodeId,
    /// The encoded default.
    pub(super) default: Option<Vec<u8>>,
}

/// The nodes of a schema.
#[derive(Debug, Default)]
pub(super) struct CompiledSchema {
    pub(super) nodes: Vec<Node>,
    pub(super) root: NodeId,
    /// Whether a type is used again by its name.
    pub(super) has_references: bool,
}

/// Compiles a schema, which has no reference to another one.
pub(super) fn compile(schema: &Schema) -> Result<CompiledSchema, SchemaError> {
    let mut compiler = Compiler::default();
    let root = compiler.add(schema, None)?;
    let mut compiled =
        CompiledSchema { nodes: compiler.nodes, root, has_references: compiler.has_references };
    // Defaults may use types that are defined after them.
    for (node, field, default) in &compiler.defaults {
        let encoded = encode_default(&compiled, *node, *field, default)?;
        if let Node::Record { fields, .. } = &mut compiled.nodes[*node] {
            fields[*field].default = Some(encoded);
        }
    }
    Ok(compiled)
}

fn encode_default(
    compiled: &CompiledSchema,
    record: NodeId,
    field: usize,
    default: &serde_json::Value,
) -> Result<Vec<u8>, SchemaError> {
    let Node::Record { name, fields } = &compiled.nodes[record] else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let mut node = fields[field].node;
    // The default of a union is a plain value of one of its types, the first before Avro 1.12.
    if let Node::Union(branches) = &compiled.nodes[node] {
        let mut scratch = Vec::new();
        let fits = |branch: &&Branch| {
            scratch.clear();
            encode_json(compiled, branch.node, default, &ValuePath::Root, &mut scratch).is_ok()
        };
        if let Some(i) = branches.iter().collect::<Vec<_>>().iter().position(fits) {
            super::encode::put_long(&mut out, i as i64);
            node = branches[i].node;
        }
    }
    encode_json(compiled, node, default, &ValuePath::Root, &mut out).map_err(|e| {
        let field = &fields[field].name;
        SchemaError::schema(format!("Avro schema: default of field {field} of {name}: {e}"))
    })?;
    Ok(out)
}

#[derive(Default)]
struct Compiler {
    nodes: Vec<Node>,
    names: BTreeMap<String, NodeId>,
    /// Record, index of the field, and the default.
    defaults: Vec<(NodeId, usize, serde_json::Value)>,
    has_references: bool,
}

impl Compiler {
    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Adds a named type before its content, which may refer to it.
    fn push_named(&mut self, name: &Name, namespace: Option<&str>) -> (NodeId, String) {
        let id = self.push(Node::Null);
        let name = name.fullname(namespace);
        self.names.insert(name.clone(), id);
        (id, name)
    }

    fn add(&mut self, schema: &Schema, namespace: Option<&str>) -> Result<NodeId, SchemaError> {
        let node = match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Node::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Node::Long,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes | Schema::BigDecimal => Node::Bytes,
            Schema::String => Node::String,
            Schema::Uuid(UuidSchema::String) => Node::Uuid,
            Schema::Uuid(UuidSchema::Bytes) => Node::UuidBytes { has_length: true },
            Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                let (id, _) = self.push_named(&fixed.name, namespace);
                self.nodes[id] = Node::UuidBytes { has_length: false };
                return Ok(id);
            }
            Schema::Fixed(fixed) | Schema::Duration(fixed) => {
                return Ok(self.add_fixed(fixed, namespace));
            }
            Schema::Decimal(decimal) => {
                let (precision, scale) = (decimal.precision, decimal.scale);
                match &decimal.inner {
                    InnerDecimalSchema::Bytes => Node::Decimal { precision, scale, size: None },
                    InnerDecimalSchema::Fixed(fixed) => {
                        let (id, _) = self.push_named(&fixed.name, namespace);
                        let size = Some(fixed.size);
                        self.nodes[id] = Node::Decimal { precision, scale, size };
                        return Ok(id);
                    }
                }
            }
            Schema::Enum(schema) => {
                let (id, name) = self.push_named(&schema.name, namespace);
                self.nodes[id] = Node::Enum { name, symbols: schema.symbols.clone() };
                return Ok(id);
            }
            Schema::Array(array) => Node::Array(self.add(&array.items, namespace)?),
            Schema::Map(map) => Node::Map(self.add(&map.types, namespace)?),
            Schema::Union(union) => {
                let mut branches = Vec::new();
                for variant in union.variants() {
                    let node = self.add(variant, namespace)?;
                    branches.push(Branch { name: self.branch_name(node), node });
                }
                Node::Union(branches)
            }
            Schema::Record(record) => return self.add_record(record, namespace),
            Schema::Ref { name } => {
                self.has_references = true;
                let full = name.fullname(namespace);
                return self.names.get(&full).copied().ok_or_else(|| {
                    SchemaError::schema(format!(
                        "Avro schema: the type {full} is not defined; add a reference to the \
                         schema that defines it"
                    ))
                });
            }
        };
        Ok(self.push(node))
    }

    fn add_fixed(&mut self, fixed: &FixedSchema, namespace: Option<&str>) -> NodeId {
        let (id, name) = self.push_named(&fixed.name, namespace);
        self.nodes[id] = Node::Fixed { name, size: fixed.size };
        id
    }

    fn add_record(
        &mut self,
        record: &RecordSchema,
        namespace: Option<&str>,
    ) -> Result<NodeId, SchemaError> {
        let (id, name) = self.push_named(&record.name, namespace);
        let inner = name.rsplit_once('.').map(|(namespace, _)| namespace.to_owned());
        let mut fields = Vec::new();
        for (i, field) in record.fields.iter().enumerate() {
            let node = self.add(&field.schema, inner.as_deref())?;
            fields.push(Field { name: field.name.clone(), node, default: None });
            if let Some(default) = &field.default {
                self.defaults.push((id, i, default.clone()));
            }
        }
        self.nodes[id] = Node::Record { name, fields };
        Ok(id)
    }

    /// Returns the name of a branch of a union.
    fn branch_name(&self, node: NodeId) -> String {
        let named = self.names.iter().find(|(_, id)| **id == node);
        if let Some((name, _)) = named {
            return name.clone();
        }
        match &self.nodes[node] {
            Node::Null => "null",
            Node::Boolean => "boolean",
            Node::Int => "int",
            Node::Long => "long",
            Node::Float => "float",
            Node::Double => "double",
            Node::String | Node::Uuid => "string",
            Node::Bytes | Node::Decimal { .. } | Node::UuidBytes { .. } => "bytes",
            Node::Array(_) => "array",
            Node::Map(_) => "map",
            // The named types are in `names`, and a union contains no union.
            Node::Fixed { .. } | Node::Enum { .. } | Node::Record { .. } | Node::Union(_) => "",
        }
        .to_owned()
    }
}
