"""What runs on the cluster: the contract, the engines, the API, the replica and the gateway."""
