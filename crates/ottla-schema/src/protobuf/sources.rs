//! Compiles a .proto file with its imports, from memory.

use prost_reflect::DescriptorPool;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use crate::error::SchemaError;
use crate::schema::Schema;

/// The name of the schema's own file. References are imported by their names.
pub(super) const FILE_NAME: &str = "ottla.schema.proto";

/// How deep brackets may be nested in a file. `protox` allows 31 levels of messages, but has no
/// limit for the values of options.
const MAX_NESTING: usize = 100;

/// The stack of the thread that compiles, without imports: what a thread gets by default.
const COMPILER_STACK_BYTES: usize = 2 << 20;
/// What an import adds to that stack. `protox` recurses along a chain of imports. Without
/// optimisation a level takes 5 KB, so on a caller's thread 400 imports would end the process.
const STACK_BYTES_PER_IMPORT: usize = 16 << 10;

/// The files that Confluent's registry knows without a reference, besides Google's.
const CONFLUENT: [(&str, &str); 2] = [
    (
        "confluent/meta.proto",
        r#"syntax = "proto3";
        package confluent;
        import "google/protobuf/descriptor.proto";
        message Meta {
            string doc = 1;
            map<string, string> params = 2;
            repeated string tags = 3;
        }
        extend google.protobuf.FileOptions { Meta file_meta = 1088; }
        extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
        extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
        extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
        extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }"#,
    ),
    (
        "confluent/type/decimal.proto",
        r#"syntax = "proto3";
        package confluent.type;
        message Decimal {
            bytes value = 1;
            uint32 precision = 2;
            int32 scale = 3;
        }"#,
    ),
];

/// Finds the schema, its references and Confluent's files.
struct Sources(Vec<(String, String)>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let own = self.0.iter().find(|(known, _)| known == name).map(|(_, text)| &**text);
        let confluent =
            || CONFLUENT.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
        let text = own.or_else(confluent).ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, text)
    }
}

/// Compiles a schema with its references and the well-known types.
pub(super) fn compile(
    schema: &Schema,
    references: &[(String, Schema)],
) -> Result<DescriptorPool, SchemaError> {
    let mut sources = vec![(FILE_NAME.to_owned(), schema.text().to_owned())];
    sources.extend(references.iter().map(|(name, s)| (name.clone(), s.text().to_owned())));
    let stack = COMPILER_STACK_BYTES + references.len() * STACK_BYTES_PER_IMPORT;
    // It ends before this call does.
    #[allow(clippy::disallowed_methods)]
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("ottla-protobuf".into()).stack_size(stack);
        let compiler = thread.spawn_scoped(scope, || compile_sources(sources)).map_err(|e| {
            SchemaError::schema(format!("Protobuf schema: no thread can compile it: {e}"))
        })?;
        compiler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn compile_sources(sources: Vec<(String, String)>) -> Result<DescriptorPool, SchemaError> {
    if let Some((name, _)) = sources.iter().find(|(_, text)| nesting(text) > MAX_NESTING) {
        return Err(SchemaError::schema(format!(
            "Protobuf schema: brackets in {name} are nested deeper than {MAX_NESTING} levels"
        )));
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(sources));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file(FILE_NAME).map_err(|e| invalid(&e))?;
    Ok(compiler.descriptor_pool())
}

fn invalid(e: &protox::Error) -> SchemaError {
    let hint =
        if e.is_file_not_found() { "; each import needs a reference of the same name" } else { "" };
    // The form for debugging has the line and the column.
    let text = format!("{e:?}").replace(FILE_NAME, "line");
    SchemaError::schema(format!("Protobuf schema: {text}{hint}"))
}

/// Returns how deep brackets are nested at most, also those in strings and comments.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
