-- The same chat request again and again, for a model that examples/policies/llm.yaml maps.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-test"
wrk.body = '{"model":"gpt-4o","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Say hello in two words, please."}],"max_tokens":64,"temperature":0.2}'
