"""`selftrain scale`: what test-time compute buys, for one model and one set of questions, at equal tokens.

Think longer (budget forcing), sample more and vote, let the model choose among its own answers, refine, or combine
them: every setting is measured on the same samples, chosen on dev, reported on test, and priced in tokens.
"""
