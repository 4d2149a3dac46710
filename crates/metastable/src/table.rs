//! Tables of columns, as Parquet for DuckDB, Polars and pandas, as CSV for eyes and spreadsheets, as JSON for scripts.

use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde_json::Value;

use crate::error::LabError;
use crate::run_dir::SCHEMA;

/// The entries of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Numbers, `None` where there is none (not where it is NaN).
    Float(Vec<Option<f64>>),
    /// Integers.
    Integer(Vec<i64>),
    /// Yes or no.
    Boolean(Vec<bool>),
    /// Texts.
    Text(Vec<String>),
}

impl Column {
    /// A column of numbers without gaps.
    pub fn numbers(values: impl IntoIterator<Item = f64>) -> Self {
        Self::Float(values.into_iter().map(Some).collect())
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Integer(values) => values.len(),
            Self::Boolean(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One entry as text: numbers in the shortest form that reads back the same, nothing for a gap.
    fn text(&self, row: usize) -> String {
        match self {
            Self::Float(values) => values[row].map_or(String::new(), |value| format!("{value:?}")),
            Self::Integer(values) => values[row].to_string(),
            Self::Boolean(values) => values[row].to_string(),
            Self::Text(values) => values[row].clone(),
        }
    }

    /// One entry as JSON, which knows neither NaN nor infinities: null stands for them.
    fn json(&self, row: usize) -> Value {
        match self {
            Self::Float(values) => Value::from(values[row]),
            Self::Integer(values) => values[row].into(),
            Self::Boolean(values) => values[row].into(),
            Self::Text(values) => values[row].as_str().into(),
        }
    }
}

/// Named columns of equal length.
///
/// # Example
/// ```
/// use metastable::table::{Column, Table};
/// let mut table = Table::new("metrics");
/// table.push("t", Column::numbers([0.0, 0.5])).unwrap();
/// table.push("departure", Column::Float(vec![None, Some(0.25)])).unwrap();
/// assert_eq!(table.to_csv(), "t,departure\n0.0,\n0.5,0.25\n");
/// let error = table.push("label", Column::Integer(vec![1])).unwrap_err();
/// assert_eq!(error.to_string(), "table metrics, column label: expected 2 rows, found 1");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    name: String,
    columns: Vec<(String, Column)>,
}

impl Table {
    /// A table without columns.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), columns: Vec::new() }
    }

    /// Adds a column on the right.
    ///
    /// # Errors
    /// [`LabError::Column`] if its length differs from the others', or its name is taken.
    pub fn push(&mut self, name: &str, column: Column) -> Result<(), LabError> {
        let refuse = |expected: String, found: String| LabError::Column {
            table: self.name.clone(),
            column: name.to_owned(),
            expected,
            found,
        };
        if !self.columns.is_empty() && column.len() != self.rows() {
            return Err(refuse(format!("{} rows", self.rows()), column.len().to_string()));
        }
        if self.columns.iter().any(|(taken, _)| taken == name) {
            return Err(refuse("a new name".into(), "one that is taken".into()));
        }
        self.columns.push((name.to_owned(), column));
        Ok(())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// The names of the columns, left to right.
    pub fn header(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The entries of a row as text, left to right.
    ///
    /// # Panics
    /// If `row >= rows()`.
    pub fn row_text(&self, row: usize) -> impl Iterator<Item = String> {
        self.columns.iter().map(move |(_, column)| column.text(row))
    }

    /// The table as CSV (RFC 4180, lines ending in LF), a header first. O(entries).
    pub fn to_csv(&self) -> String {
        let mut lines = line(self.header());
        for row in 0..self.rows() {
            lines.push_str(&line(self.row_text(row)));
        }
        lines
    }

    /// The table as a JSON list of one object per row. O(entries).
    pub fn to_json(&self) -> Value {
        let object = |row| self.columns.iter().map(|(name, column)| (name.clone(), column.json(row))).collect();
        (0..self.rows()).map(|row| Value::Object(object(row))).collect()
    }

    /// The table as the bytes of a Parquet file: snappy, one row group, equal bytes for equal tables.
    /// The file's metadata hold `metastable.schema`. O(entries).
    ///
    /// # Errors
    /// [`LabError::Parquet`].
    pub fn to_parquet(&self) -> Result<Vec<u8>, LabError> {
        self.write_parquet().map_err(|source| LabError::Parquet { table: self.name.clone(), source })
    }

    fn write_parquet(&self) -> Result<Vec<u8>, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(None)
            .set_key_value_metadata(Some(vec![KeyValue::new("metastable.schema".into(), SCHEMA.to_string())]))
            .build();
        let mut writer = SerializedFileWriter::new(Vec::new(), self.parquet_schema()?, Arc::new(properties))?;
        if self.rows() > 0 {
            let mut group = writer.next_row_group()?;
            for (_, column) in &self.columns {
                let mut column_writer = group.next_column()?.ok_or_else(column_missing)?;
                write_column(column, column_writer.untyped())?;
                column_writer.close()?;
            }
            group.close()?;
        }
        writer.into_inner()
    }

    fn parquet_schema(&self) -> Result<Arc<Type>, ParquetError> {
        let field = |(name, column): &(String, Column)| {
            let (physical, repetition, logical) = match column {
                Column::Float(_) => (PhysicalType::DOUBLE, Repetition::OPTIONAL, None),
                Column::Integer(_) => (PhysicalType::INT64, Repetition::REQUIRED, None),
                Column::Boolean(_) => (PhysicalType::BOOLEAN, Repetition::REQUIRED, None),
                Column::Text(_) => (PhysicalType::BYTE_ARRAY, Repetition::REQUIRED, Some(LogicalType::String)),
            };
            let builder = Type::primitive_type_builder(name, physical);
            builder.with_repetition(repetition).with_logical_type(logical).build().map(Arc::new)
        };
        let fields = self.columns.iter().map(field).collect::<Result<_, _>>()?;
        Type::group_type_builder(&self.name).with_fields(fields).build().map(Arc::new)
    }
}

fn column_missing() -> ParquetError {
    ParquetError::General("the schema has fewer columns than the table".into())
}

fn write_column(column: &Column, writer: &mut ColumnWriter<'_>) -> Result<usize, ParquetError> {
    match (column, writer) {
        (Column::Float(values), ColumnWriter::DoubleColumnWriter(writer)) => {
            let present: Vec<f64> = values.iter().copied().flatten().collect();
            let levels: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
            writer.write_batch(&present, Some(&levels), None)
        }
        (Column::Integer(values), ColumnWriter::Int64ColumnWriter(writer)) => writer.write_batch(values, None, None),
        (Column::Boolean(values), ColumnWriter::BoolColumnWriter(writer)) => writer.write_batch(values, None, None),
        (Column::Text(values), ColumnWriter::ByteArrayColumnWriter(writer)) => {
            let texts: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(text.as_bytes().to_vec())).collect();
            writer.write_batch(&texts, None, None)
        }
        _ => Err(ParquetError::General("the schema has another column type than the table".into())),
    }
}

/// One line of CSV; entries with commas, quotes or line breaks are quoted.
fn line<T: AsRef<str>>(entries: impl Iterator<Item = T>) -> String {
    let quoted = |entry: T| {
        let entry = entry.as_ref();
        if entry.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", entry.replace('"', "\"\""))
        } else {
            entry.into()
        }
    };
    let mut line = entries.map(quoted).collect::<Vec<String>>().join(",");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, RowAccessor};

    use super::*;

    fn table() -> Table {
        let mut table = Table::new("metrics");
        table.push("t", Column::Float(vec![Some(0.1), None, Some(f64::NAN)])).unwrap();
        table.push("label", Column::Integer(vec![-1, i64::MAX, 0])).unwrap();
        table.push("merged", Column::Boolean(vec![true, false, true])).unwrap();
        table.push("token", Column::Text(vec!["a,\"b\"\n".into(), String::new(), "β<script>".into()])).unwrap();
        table
    }

    fn reader(table: &Table) -> SerializedFileReader<std::fs::File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&table.to_parquet().unwrap()).unwrap();
        file.rewind().unwrap();
        SerializedFileReader::new(file).unwrap()
    }

    #[test]
    fn parquet_reads_back_what_was_written() {
        let reader = reader(&table());
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].get_double(0).unwrap(), 0.1);
        assert_eq!(rows[1].get_column_iter().next().unwrap().1, &Field::Null);
        assert!(rows[2].get_double(0).unwrap().is_nan());
        assert_eq!(rows[1].get_long(1).unwrap(), i64::MAX);
        assert!(!rows[1].get_bool(2).unwrap());
        assert_eq!(rows[2].get_string(3).unwrap(), "β<script>");
    }

    #[test]
    fn parquet_carries_the_schema_number() {
        let reader = reader(&table());
        let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
        assert_eq!(metadata, [KeyValue::new("metastable.schema".into(), "1".to_string())]);
    }

    #[test]
    fn equal_tables_give_equal_bytes() {
        assert_eq!(table().to_parquet().unwrap(), table().to_parquet().unwrap());
    }

    #[test]
    fn tables_without_rows_are_tables() {
        let mut empty = Table::new("metrics");
        empty.push("t", Column::Float(vec![])).unwrap();
        assert_eq!(reader(&empty).metadata().file_metadata().num_rows(), 0);
        assert_eq!(empty.to_csv(), "t\n");
        assert_eq!(empty.to_json(), Value::Array(vec![]));
    }

    #[test]
    fn csv_quotes_what_would_break_a_line() {
        let expected =
            "t,label,merged,token\n0.1,-1,true,\"a,\"\"b\"\"\n\"\n,9223372036854775807,false,\nNaN,0,true,β<script>\n";
        assert_eq!(table().to_csv(), expected);
    }

    #[test]
    fn json_has_null_for_gaps_and_for_what_json_cannot_say() {
        let json = table().to_json();
        assert_eq!(json[0]["t"], 0.1);
        assert_eq!(json[1]["t"], Value::Null);
        assert_eq!(json[2]["t"], Value::Null);
        assert_eq!(json[2]["token"], "β<script>");
    }

    #[test]
    fn a_name_stands_once() {
        let error = table().push("t", Column::numbers([1.0, 2.0, 3.0])).unwrap_err();
        assert!(error.to_string().ends_with("expected a new name, found one that is taken"), "{error}");
    }
}
