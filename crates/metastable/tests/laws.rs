//! Every law of the self-test is a named test.

use metastable::selftest::laws;

fn holds(name: &str) {
    let law = laws().into_iter().find(|law| law.name == name);
    let result = law.unwrap_or_else(|| panic!("no law is named {name}")).evaluate();
    println!("{name}: error {:?}, tolerance {:e}", result.error, result.tolerance);
    assert!(result.passed, "{result:?}");
}

macro_rules! law_tests {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn every_law_is_a_test() {
            let tests = [$(stringify!($name)),*];
            let laws: Vec<&str> = laws().iter().map(|law| law.name).collect();
            assert_eq!(laws, tests);
        }
    };
}

law_tests! {
    orthogonal_tokens_follow_the_gamma_equation_under_softmax,
    orthogonal_tokens_follow_the_gamma_equation_without_normalisation,
    the_gamma_equation_is_the_velocity_of_the_particles,
    equiangular_tokens_at_beta_zero_follow_the_closed_form,
    two_tokens_meet_after_the_crossing_time,
    high_dimensional_tokens_gather_at_the_predicted_times,
    near_collapse_the_gap_closes_like_exp_minus_two_t,
    one_layer_maps_equiangular_tokens_by_the_formula,
    ripples_on_the_circle_grow_at_the_linear_rate,
    many_tokens_on_the_circle_ripple_by_bessel_functions,
    uniform_tokens_on_the_circle_select_the_most_unstable_mode,
    uniform_tokens_share_a_hemisphere_with_wendels_probability,
    wendels_probability_has_the_tabulated_values,
    spherical_designs_have_the_energy_of_the_uniform_law,
    cross_ratios_are_conserved_at_beta_zero,
    attention_without_scores_shifts_all_tokens_alike,
    one_token_and_consensus_move_by_the_exponential_of_v,
    the_energy_grows_by_the_square_of_the_speed,
    the_energy_is_monotone_and_below_its_maximum,
    partition_functions_lie_between_their_bounds,
    the_least_projection_in_a_hemisphere_never_falls,
    doubly_stochastic_attention_moves_the_mean_by_the_exponential_of_v,
    symmetric_weights_keep_the_mean_of_relative_attention,
    permuted_tokens_move_as_the_tokens_permuted,
    rotated_tokens_and_heads_move_as_the_tokens_rotated,
    tokens_at_a_point_and_its_antipode_stand_still,
    scaling_v_scales_time,
    euler_layers_have_an_exact_rescaled_twin,
    all_tokens_on_the_sphere_gather_at_one_point,
    a_collapsed_cloud_leaves_under_an_adapter_at_the_critical_time,
    rescaled_tokens_are_the_tokens_times_exp_minus_tv,
    the_convex_hull_of_rescaled_tokens_is_nested_in_time,
    leading_eigen_coordinates_contract_from_both_sides,
    identity_value_sends_tokens_to_self_dominant_points,
    a_simple_leading_eigenvalue_gives_at_most_three_hyperplanes,
    a_repeated_leading_eigenvalue_gives_a_polytope_in_its_eigenspace,
    one_dimensional_attention_becomes_boolean_of_rank_two_or_three,
    rank_one_query_key_leaves_at_most_two_clusters,
    rescaled_tokens_run_to_t_1e5_without_overflow,
    the_first_token_of_a_causal_flow_stands_still,
    a_causal_prefix_does_not_feel_what_follows,
    causal_tokens_gather_at_the_first_one,
    two_causal_tokens_at_beta_zero_follow_the_tanh_law,
    five_tokens_on_the_circle_make_two_clusters_at_5_8_and_one_at_364_1,
    the_energy_of_the_two_metastable_clusters_is_0_5198,
    two_caps_gather_by_t1_and_do_not_leave_before_t2,
    the_collapse_equation_meets_its_time_bound,
    the_sphere_envelope_s1_holds,
    the_euclidean_envelope_s2_holds,
    the_leading_direction_turns_by_at_most_the_tan_two_theta_bound,
    an_adapter_orthogonal_to_the_prompts_changes_nothing,
    a_null_adapter_changes_no_bit,
    merged_and_unmerged_adapters_move_tokens_alike,
    an_update_has_at_most_its_nominal_rank,
    seed_42_tokens_gather_at_the_two_reference_clusters,
    seed_42_is_released_at_the_constant_0_5754637311,
    the_authors_euler_steps_reproduce_their_clusters_and_0_540076,
    the_cascade_predicts_three_releases_in_slow_time,
    simulated_merges_follow_the_cascade,
    gaussian_moments_of_softmax_l2_sinkhorn_and_two_heads_have_their_reference_values,
    a_gaussian_on_the_line_follows_its_closed_forms,
    a_covariance_in_the_plane_turns_by_the_logarithm_of_its_closed_form,
    a_softmax_pole_is_located_at_2_467462393483598_without_its_closed_form,
    l2_attention_blows_up_at_2_35001814622868,
    skew_values_keep_the_spectrum_of_the_covariance,
    a_linear_feed_forward_part_balances_collapse_at_the_solution_of_its_riccati_equation,
    twelve_layers_miss_the_flow_by_3_394e_3,
    covariances_collapse_to_what_the_head_cannot_see,
    every_kernel_has_its_reference_field,
    two_symmetric_tokens_move_by_the_hyperbolic_functions_of_their_kernel,
    sinkhorn_moves_the_mean_by_the_exponential_of_v_over_epsilon,
    attention_climbs_its_energy_and_sinkhorn_descends_its_cost,
    second_moments_of_linear_attention_close_for_any_cloud,
    near_collapse_norms_decide_between_exponential_and_algebraic_rates,
    noise_has_the_moments_of_euler_maruyama_on_ornstein_uhlenbeck,
    two_solutions_drift_apart_by_at_most_dobrushins_factor,
    equiangular_tokens_reach_their_reference_cosines,
    noise_keeps_tokens_uniform_up_to_its_reference_thresholds,
    kernels_without_closure_have_their_reference_fields_on_gaussians,
    sinkhorns_alternation_contracts_quadratic_potentials_by_r_to_the_fourth,
}
