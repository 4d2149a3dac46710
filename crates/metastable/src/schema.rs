//! JSON Schemas of the configurations, made from the types that read them.

use serde_json::Value;

/// The schema of the configuration of `simulate`.
pub fn simulate() -> Value {
    schemars::schema_for!(crate::simulate::SimulateConfig).to_value()
}

/// The schema of the configuration of `sweep`.
pub fn sweep() -> Value {
    schemars::schema_for!(crate::sweep::SweepConfig).to_value()
}

/// The schema of the configuration of `finetune`.
pub fn finetune() -> Value {
    schemars::schema_for!(crate::finetune::FinetuneConfig).to_value()
}
