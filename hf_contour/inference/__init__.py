"""Using trained models: prediction in bulk, explanation, embeddings, export."""
