"""Operations that architectures and the trainer share: draws, selection, sparse products, Adam."""
